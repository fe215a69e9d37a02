"""The fast lane: deltas of a live stream go to its caller as they came, past whoever would read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from spillway import v1

_TAG = v1.GenerationEvent(sequence=1).SerializeToString()[:-1]
"""Of an event's number, with which it begins where it has one."""
_KEPT: Final = 2**14
_numbers: list[bytes] = []
"""The serialized numbers of the events that most answers have; made when they are first needed."""


class Lane:
    """Of one live stream. Who serves its caller makes it, and sees to its `credit`; who makes its events opens it.

    It numbers them, what passes here and what does not: an event is numbered anew where it bears another number than
    it has here. What runs for each token of a stream is in `take`, and what it needs is together in one object.
    """

    __slots__ = ("_put", "credit", "kept", "open", "passed", "sequence")

    def __init__(self, put: Callable[[bytes, int], None] = lambda event, tokens: None, credit: int = 0) -> None:
        """`put` sends a serialized GenerationEvent that has so many tokens."""
        self._put = put
        self.credit = credit
        """Events that the caller takes now."""
        self.open = False
        """Nobody has to read the deltas now."""
        self.sequence = 0
        """The number of the next event."""
        self.passed = 0
        """Tokens that went by here."""
        self.kept: list[bytes] | None = None
        """The deltas that did, where somebody needs them later."""

    def take(self, event: bytes, tokens: int) -> bool:
        """Send a delta, a serialized GenerationEvent, and its tokens. False: not now; it goes the way of all events."""
        if not (self.open and self.credit):
            return False
        sequence = self.sequence
        number = _numbers[sequence] if sequence < len(_numbers) else _number(sequence)
        if not event.startswith(number):
            event = number + _unnumbered(event)
        self.credit -= 1
        self._put(event, tokens)
        self.sequence = sequence + 1
        self.passed += tokens
        if self.kept is not None:
            self.kept.append(event)
        return True

    def __repr__(self) -> str:
        return f"<Lane {'open' if self.open else 'closed'}, {self.passed} tokens passed, credit {self.credit}>"


def _unnumbered(event: bytes) -> bytes:
    """Return `event` without its number: had it two, who passes it on next might go by the wrong one."""
    if not event.startswith(_TAG):
        return event
    end = len(_TAG)
    while end < len(event) and event[end] & 0x80:
        end += 1
    return event[end + 1 :]


def _number(sequence: int) -> bytes:
    """Return the serialized number of an event."""
    while len(_numbers) <= min(sequence, _KEPT):
        _numbers.append(_serialized(len(_numbers)))
    return _serialized(sequence)


def _serialized(sequence: int) -> bytes:
    return v1.GenerationEvent(sequence=sequence).SerializeToString() or _TAG + b"\0"
