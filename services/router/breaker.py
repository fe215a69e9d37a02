"""A breaker: whether one target may be used, learnt from how attempts at it end. Pure, with `now` handed in.

Closed: used; failures are counted. Open: left alone for a while. Half open: a few probes; an answer closes it, a
failure opens it again, for longer. Just closed it gets a growing share of the requests, so that a target that has just
come back is not met by all of them at once. Results of attempts that began before it last opened or closed are old news
and count for nothing. A target that says when to come back is held for that long, which is not a failure.

An answer closes an open breaker too: where nothing else may answer, an open breaker is advice, and requests go through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf

from spillway.record import record

from .breaker_settings import BreakerSettings
from .outcome import Outcome
from .rolling_window import RollingWindow


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@record
class Standing:
    """How a target stands at one moment."""

    state: State = State.CLOSED
    why: str = ""
    left_s: float = 0.0
    """Seconds until it may change by itself."""
    share: float = 1.0
    """Of the requests it may have; less than 1 while it recovers."""
    probe_free: bool = False
    """Half open, and no probe is known to be under way."""

    def objection(self, draw: float) -> str:
        """Why a request should not use the target, or an empty string. `draw`: the request's own number in [0, 1)."""
        if self.state is State.OPEN:
            return f"its breaker is open for {self.left_s:.0f} s more: {self.why}"
        if self.state is State.HALF_OPEN:
            return "" if self.probe_free else f"its breaker is half open and being probed: {self.why}"
        return "" if draw < self.share else f"its breaker has just closed: it gets {self.share:.0%} of the requests"

    @property
    def severity(self) -> float:
        """Higher is worse."""
        if self.state is State.CLOSED:
            return 1 - self.share
        return 3.0 if self.state is State.OPEN else 2.0 - self.probe_free / 2


SOUND = Standing()
"""How a target stands that nothing is known against."""


@dataclass(frozen=True, slots=True)
class Opened:
    """`seconds`: until it is half open. `heard`: on another router's word."""

    target: str
    kind: str
    why: str
    seconds: float
    heard: bool = False


@dataclass(frozen=True, slots=True)
class HalfOpened:
    target: str
    kind: str


@dataclass(frozen=True, slots=True)
class Closed:
    target: str
    kind: str
    why: str
    heard: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """The target asked to be left alone for `seconds`."""

    target: str
    kind: str
    seconds: float


Event = Opened | HalfOpened | Closed | Held


class Breaker:
    """The breaker of `target`, for one `kind` of work, or without one for its transport.

    `draw` returns a number in [0, 1) for the jitter. Every method that takes `now` (seconds, monotonic) and changes
    something returns the events of the change.
    """

    def __init__(self, target: str, settings: BreakerSettings, draw: Callable[[], float], kind: str = "") -> None:
        self.target = target
        self.kind = kind
        self._settings = settings
        self._draw = draw
        self._state = State.CLOSED
        self._why = ""
        self._heard = False
        self._since = -inf  # when it last opened or closed
        self._until = -inf  # of being open
        self._open_s = 0.0  # the last time open, before jitter
        self._held_until = -inf
        self._ramp_ends = -inf
        self._window = RollingWindow(settings.window_s)
        self._in_a_row = 0
        self._answers = 0  # since it opened
        self._answered_at = -inf
        self._probes: dict[int, float] = {}  # number -> when it no longer counts
        self._probed = 0
        self._elsewhere_until = -inf  # another router probes

    def standing(self, now: float) -> Standing:
        """How it stands."""
        if now < self._held_until and not self._open(now):
            return Standing(State.OPEN, "it asked to be left alone", self._held_until - now, 0.0)
        if self._open(now):
            return Standing(State.OPEN, self._why, max(self._until, self._held_until) - now, 0.0)
        if self._state is not State.CLOSED:
            free = self._free_from(now)
            return Standing(State.HALF_OPEN, self._why, max(0.0, free - now), 0.0, free <= now)
        left = self._ramp_ends - now
        if left <= 0:
            return SOUND
        least = self._settings.ramp_from
        share = least + (1 - least) * (1 - left / self._settings.ramp_s)
        return Standing(State.CLOSED, self._why, left, share)

    def sound(self, now: float) -> bool:
        """Whether nothing is known against the target, and nothing will change by itself."""
        return self._state is State.CLOSED and now >= max(self._ramp_ends, self._held_until)

    def record(
        self,
        outcome: Outcome,
        now: float,
        *,
        began: float | None = None,
        retry_after_s: float | None = None,
        probe: int | None = None,
    ) -> tuple[Event, ...]:
        """Learn how an attempt ended that `began` then, as `probe` if it was one."""
        events = self.advance(now)
        if probe is not None:
            self._probes.pop(probe, None)
        if (now if began is None else began) < self._since:
            return events
        if retry_after_s and outcome in (Outcome.DOWN, Outcome.FAILED, Outcome.AWAY):
            return events + self._hold(retry_after_s, now)
        if outcome in (Outcome.ANSWERED, Outcome.REFUSED):
            return events + self._answered(now)
        if outcome in (Outcome.DOWN, Outcome.FAILED):
            return events + self._failed(outcome, now)
        return events

    def advance(self, now: float) -> tuple[Event, ...]:
        """Let time pass."""
        if self._state is not State.OPEN or now < self._until:
            return ()
        self._state = State.HALF_OPEN
        return (HalfOpened(self.target, self.kind),)

    def take_probe(self, now: float) -> int | None:
        """Number of a probe that may go now, or None. It ends when it is recorded, given back, or after `probe_s`."""
        if not self.standing(now).probe_free:
            return None
        self._probes = {number: ends for number, ends in self._probes.items() if ends > now}
        self._probed += 1
        self._probes[self._probed] = now + self._settings.probe_s
        return self._probed

    def give_back(self, probe: int) -> None:
        """End a probe that did not go."""
        self._probes.pop(probe, None)

    def bar(self, until: float) -> None:
        """Let no probe go until then: other routers are probing."""
        self._elsewhere_until = until

    def hear_open(self, seconds: float, why: str, now: float) -> tuple[Event, ...]:
        """Open for `seconds` on another router's word."""
        events = self.advance(now)
        if self._state is State.OPEN:
            self._until = max(self._until, now + seconds)
            return events
        return events + self._trip(why, now, seconds, heard=True)

    def hear_closed(self, why: str, now: float) -> tuple[Event, ...]:
        """Close on another router's word, if it was on another's word that it opened."""
        if self._state is State.CLOSED or not self._heard:
            return ()
        return self._close(why, now, heard=True)

    def contradicts(self, now: float, fresh_s: float) -> bool:
        """Whether the target answered here within `fresh_s`, and has not failed since."""
        return self._state is State.CLOSED and not self._in_a_row and now - self._answered_at < fresh_s

    def reset(self, now: float, *, heard: bool = False) -> tuple[Event, ...]:
        """Close at once and without a ramp: an operator knows better."""
        changed = not self.sound(now)
        events = self._close("reset", now, heard=heard)
        self._held_until = self._ramp_ends = -inf
        return events if changed else ()

    def _open(self, now: float) -> bool:
        return self._state is State.OPEN and now < self._until

    def _free_from(self, now: float) -> float:
        """When the next probe may go."""
        ends = sorted(ends for ends in self._probes.values() if ends > now)
        slot = ends[-self._settings.probes] if len(ends) >= self._settings.probes else -inf
        return max(slot, self._elsewhere_until)

    def _answered(self, now: float) -> tuple[Event, ...]:
        self._answered_at = now
        self._in_a_row = 0
        if self._state is State.CLOSED:
            self._window.add(now, total=1)
            return ()
        self._answers += 1
        return self._close("it answers", now) if self._answers >= self._settings.answers_to_close else ()

    def _failed(self, outcome: Outcome, now: float) -> tuple[Event, ...]:
        settings, window = self._settings, self._window
        if self._state is State.OPEN:
            return ()  # nothing new
        if self._state is State.HALF_OPEN:
            return self._trip("it fails when probed", now)
        window.add(now, total=1, marked=1)
        self._in_a_row += outcome is Outcome.DOWN
        if settings.in_a_row is not None and self._in_a_row >= settings.in_a_row:
            return self._trip(f"{self._in_a_row} failures in a row", now)
        if window.total >= settings.least_samples and window.marked > settings.share * window.total:
            return self._trip(f"{window.marked} of {window.total} attempts failed", now)
        return ()

    def _hold(self, seconds: float, now: float) -> tuple[Event, ...]:
        until = now + min(seconds, self._settings.longest_hold_s)
        if until <= self._held_until:
            return ()
        self._held_until = until
        return (Held(self.target, self.kind, until - now),)

    def _trip(self, why: str, now: float, seconds: float | None = None, *, heard: bool = False) -> tuple[Event, ...]:
        settings = self._settings
        if seconds is None:
            # The ceiling is lowered by the jitter, so that routers do not all come back together once it is reached.
            ceiling = settings.longest_open_s / (1 + settings.jitter)
            grown = settings.open_s if self._state is State.CLOSED else self._open_s * settings.growth
            self._open_s = min(max(grown, settings.open_s), ceiling)
            seconds = self._open_s * (1 + settings.jitter * self._draw())
        self._state, self._why, self._heard = State.OPEN, why, heard
        self._since, self._until = now, now + seconds
        self._answers = 0
        self._elsewhere_until = -inf
        self._probes.clear()
        return (Opened(self.target, self.kind, why, seconds, heard),)

    def _close(self, why: str, now: float, *, heard: bool = False) -> tuple[Event, ...]:
        self._state, self._why, self._heard = State.CLOSED, why, False
        self._since = now
        self._open_s = 0.0
        self._ramp_ends = now + self._settings.ramp_s
        self._in_a_row = 0
        self._probes.clear()
        self._window.clear()
        return (Closed(self.target, self.kind, why, heard),)

    def __repr__(self) -> str:
        kind = f" ({self.kind})" if self.kind else ""
        return f"<Breaker {self.target}{kind} {self._state.value} {self._window.marked}/{self._window.total}>"
