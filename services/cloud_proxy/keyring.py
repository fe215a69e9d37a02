"""The keys of one provider: which one's turn it is, which rest, which are dead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import NamedTuple

from services.cloud_proxy.key import Key
from spillway.deadline import Clock
from spillway.errors import BY_REASON, ProviderAuthFailed, ProviderOutOfCredit, ProviderRateLimited, SpillwayError
from spillway.logs import get_logger

log = get_logger(__name__)

REST_S = 60.0
"""How long a key rests that is out of credit or may not do what was asked: somebody may have mended it by then."""
LIMITED_REST_S = 1.0
"""How long a key rests whose limit is reached, where the provider does not say."""
FORBIDDEN = 403
"""The provider knows the key: what it may not do may be one model or one place alone."""


class KeyState(Enum):
    USABLE = 1
    RESTING = 2
    DEAD = 3


class Standing(NamedTuple):
    """A key as it may be told: by where it comes from."""

    source: str
    state: KeyState
    why: str
    """Reason of the error that took it out."""


@dataclass(slots=True, eq=False)
class Held:
    """One key in its place. Another key there is another `Held`: what befell the one never counts for the other."""

    source: str
    key: Key | None
    turn: int = 0
    until: float = 0.0
    """It rests until then."""
    why: str = ""
    dead: bool = False

    def state(self, now: float) -> KeyState:
        if self.dead:
            return KeyState.DEAD
        return KeyState.RESTING if now < self.until else KeyState.USABLE


class Keyring:
    """The keys of `provider` by their sources; None: it asks for none. They take turns, least recently used first.

    `max_rest_s`: longest rest that a provider's own Retry-After gives a key, in seconds.
    """

    def __init__(
        self, provider: str, keys: Mapping[str, Key] | None, *, clock: Clock, max_rest_s: float = 300.0
    ) -> None:
        self._provider = provider
        self._held = {"": Held("", None)} if keys is None else {name: Held(name, key) for name, key in keys.items()}
        self._clock = clock
        self._max_rest_s = max_rest_s
        self._turns = count(1)

    def take(self, tried: Collection[Held] = (), refusal: SpillwayError | None = None) -> Held:
        """Return the key whose turn it is among those not `tried`.

        Raises `refusal`, which ended the last try, if no such key is usable; without one, what `closed` returns.
        """
        now = self._clock()
        usable = [held for held in self._usable(now) if held not in tried]
        if not usable:
            raise refusal or self._closed(now)
        taken = min(usable, key=lambda held: held.turn)
        taken.turn = next(self._turns)
        return taken

    def failed(self, held: Held, error: SpillwayError, status: int | None) -> None:
        """Take `held` out if `error`, which came with an HTTP `status`, is the key's.

        A key that the provider does not know is dead. One without credit rests. One that may not do what was asked, or
        whose limit is reached, rests while others are usable: the last one is asked again, and the limits decide.
        """
        if held.key is None or not isinstance(error, ProviderAuthFailed | ProviderOutOfCredit | ProviderRateLimited):
            return
        now, limited = self._clock(), isinstance(error, ProviderRateLimited)
        told = {"provider": self._provider, "source": held.source, "why": error.reason, "status": status}
        if isinstance(error, ProviderAuthFailed) and status != FORBIDDEN:
            if not held.dead:  # else another call under way with it has told
                held.dead, held.why = True, error.reason
                log.error("key.dead", **told)
        elif isinstance(error, ProviderOutOfCredit) or any(other is not held for other in self._usable(now)):
            asked = error.retry_after_s or (LIMITED_REST_S if limited else REST_S)
            seconds = min(asked, self._max_rest_s)
            held.until, held.why = now + seconds, error.reason
            log.warning("key.rests", **told, seconds=round(seconds, 3))
            if limited:
                error.retry_after_s = 0.0  # this key is to be left alone, not the provider: another one may be used

    def put(self, source: str, key: Key | None) -> None:
        """Let `key` be what `source` holds from now on: nothing of the one before it counts. None: it holds none."""
        known = source in self._held
        if key is None:
            self._held.pop(source, None)
            log.warning("key.removed", provider=self._provider, source=source, left=len(self._held))
        else:
            self._held[source] = Held(source, key)
            log.info("key.changed" if known else "key.added", provider=self._provider, source=source)

    def closed(self) -> SpillwayError | None:
        """Return why nothing can be sent now, None while a key is usable.

        It says after how many seconds the first key has rested; it says none where all are dead.
        """
        now = self._clock()
        return None if self._usable(now) else self._closed(now)

    def _closed(self, now: float) -> SpillwayError:
        name = self._provider
        resting = [held for held in self._held.values() if not held.dead]
        if not resting:
            told = "none of its keys is valid" if self._held else "all its keys have been removed"
            return ProviderAuthFailed(f"{name}: {told}", resource=name, metadata={"provider": name})
        first = min(resting, key=lambda held: held.until)
        return BY_REASON[first.why](
            f"{name}: none of its keys is usable now",
            retry_after_s=first.until - now,
            resource=name,
            metadata={"provider": name},
        )

    def standings(self) -> list[Standing]:
        """Return how every key stands: those of the environment first, then those of files."""
        now = self._clock()
        states = [(held, held.state(now)) for held in self._held.values() if held.key is not None]
        return [Standing(held.source, state, "" if state is KeyState.USABLE else held.why) for held, state in states]

    def _usable(self, now: float) -> list[Held]:
        return [held for held in self._held.values() if held.state(now) is KeyState.USABLE]

    def __repr__(self) -> str:
        told = ", ".join(f"{one.source} {one.state.name.lower()}" for one in self.standings())
        return f"<Keyring {self._provider} {told or 'no keys'}>"
