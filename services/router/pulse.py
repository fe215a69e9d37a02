"""Pulse: which of the routers that share a ledger have died. Decided on this router's own clock.

A router counts up a number in the ledger as long as it runs. The clocks of two machines differ, so nothing is made of
when it says it did: it has died if the number stayed the same for long enough, as seen from here.
"""

from __future__ import annotations

from collections.abc import Mapping


class Pulse:
    """What was seen of the others' numbers, and since when.

    Only silence that was listened to counts: after a gap between two looks of more than half of `dead_s` seconds it
    begins anew. Whatever kept this router from looking, such as a database that was away, kept the others silent too.
    """

    def __init__(self, dead_s: float) -> None:
        self._dead_s = dead_s
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = float("-inf")

    def silent(self, beats: Mapping[str, int], now: float) -> dict[str, int]:
        """Look at all that run at `now`, in seconds; return those that have died, with their last number."""
        known = self._seen if now - self._looked <= self._dead_s / 2 else {}
        self._looked = now
        self._seen = {
            id: known[id] if id in known and known[id][0] == beat else (beat, now) for id, beat in beats.items()
        }
        return {id: beat for id, (beat, since) in self._seen.items() if now - since >= self._dead_s}

    def __repr__(self) -> str:
        return f"<Pulse of {len(self._seen)} routers>"
