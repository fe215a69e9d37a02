"""The fast lane: deltas of a live stream go to its caller as they came, past the strategies, unread."""

from __future__ import annotations

from functools import lru_cache

from spillway import v1
from spillway.rpc.bypass import Bypass
from spillway.rpc.watchdog import Watchdog

from .progress import Progress

_TAG = v1.GenerationEvent(sequence=1).SerializeToString()[:-1]
"""Of an event's number, with which it begins where it has one."""


class Lane:
    """Between one attempt and its caller: what passes is counted in `progress` and leaves by `bypass`.

    It opens once the answer has begun. An event is numbered anew where it bears another number than it has here.
    """

    __slots__ = ("_bypass", "_progress", "dog", "open", "tokens")

    def __init__(self, bypass: Bypass, progress: Progress) -> None:
        self._bypass = bypass
        self._progress = progress
        self.dog: Watchdog | None = None
        """Watches over the silence between two deltas."""
        self.open = False
        self.tokens = 0
        """That have passed here."""

    def take(self, event: bytes, tokens: int) -> bool:
        """A Bypass: False while there is no way here."""
        if not self.open:
            return False
        number = _number(self._progress.sequence)
        if not event.startswith(number):
            event = number + _unnumbered(event)
        if not self._bypass(event, tokens):
            return False
        self._progress.skip(event, tokens)
        self.tokens += tokens
        if self.dog is not None:
            self.dog.watch()
        return True

    def __repr__(self) -> str:
        return f"<Lane {'open' if self.open else 'closed'} {self.tokens} tokens>"


def _unnumbered(event: bytes) -> bytes:
    """Return `event` without its number: had it two, who passes it on next might go by the wrong one."""
    if not event.startswith(_TAG):
        return event
    end = len(_TAG)
    while end < len(event) and event[end] & 0x80:
        end += 1
    return event[end + 1 :]


@lru_cache(2**16)
def _number(sequence: int) -> bytes:
    """The serialized number of an event."""
    return v1.GenerationEvent(sequence=sequence).SerializeToString()
