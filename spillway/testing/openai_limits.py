"""What is left of a simulated OpenAI's limits, as its headers tell it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Bucket:
    """A limit per minute that fills up again all the time: it is full after a minute without use.

    Times are seconds of the caller's clock.
    """

    per_minute: int
    used: float = 0.0
    at: float = 0.0

    def take(self, amount: float, now: float) -> None:
        """Use `amount` of it."""
        self.used = min(self.per_minute, self._used(now) + amount)
        self.at = now

    def left(self, now: float) -> int:
        """Return what may still be used."""
        return int(self.per_minute - self._used(now))

    def full_in_s(self, now: float) -> float:
        """Return the seconds until it is full."""
        return self._used(now) * 60 / self.per_minute

    def _used(self, now: float) -> float:
        return max(0.0, self.used - (now - self.at) * self.per_minute / 60)


@dataclass(slots=True)
class Limits:
    """Requests and tokens per minute."""

    requests: Bucket = field(default_factory=lambda: Bucket(10_000))
    tokens: Bucket = field(default_factory=lambda: Bucket(2_000_000))

    def headers(self, now: float) -> dict[str, str]:
        """Return what every answer tells of them."""
        told = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            told[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
            told[f"x-ratelimit-remaining-{name}"] = str(bucket.left(now))
            told[f"x-ratelimit-reset-{name}"] = duration(bucket.full_in_s(now))
        return told


def duration(seconds: float) -> str:
    """Return `seconds` as OpenAI writes them: `12ms`, `8.64s`, `6m0s`."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
