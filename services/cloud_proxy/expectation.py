"""How long answers usually are, by who asks whom. Pure.

Lengths are counted in buckets that grow by a fifth; old ones lose weight. What is told is the ninth decile, so that
what is reserved for many running calls together is hardly ever less than what they use.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict

USUAL = 0.9
"""Of the answers seen, how many are no longer than what is expected."""
GROWTH = math.log(1.2)
FEW = 8
"""Fewer answers than this say nothing."""
WEIGHT = 400
"""When so many are counted, all count half."""
MAX_KNOWN = 10_000


class Lengths:
    """The lengths of answers seen."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._seen = 0

    def add(self, tokens: int) -> None:
        self._buckets[math.ceil(math.log(max(1, tokens)) / GROWTH - 1e-9)] += 1
        self._seen += 1
        if self._seen >= WEIGHT:
            self._buckets = Counter({at: count // 2 for at, count in self._buckets.items() if count > 1})
            self._seen = self._buckets.total()

    def usual(self) -> int | None:
        """Tokens that USUAL of the answers do not exceed; None: too few were seen."""
        if self._seen < FEW:
            return None
        below, need = 0, USUAL * self._seen
        for at in sorted(self._buckets):
            below += self._buckets[at]
            if below >= need:
                return math.ceil(math.exp(at * GROWTH) - 1e-6)
        return None

    def __repr__(self) -> str:
        return f"<Lengths {self._seen} seen, usually {self.usual()}>"


class Expectation:
    """Learns of every answer; remembers the pairs of tenant and target that were asked for last."""

    def __init__(self, max_known: int = MAX_KNOWN) -> None:
        self._max = max_known
        self._known: OrderedDict[tuple[str | None, str], Lengths] = OrderedDict()

    def tokens(self, tenant: str, target: str, default: int) -> int:
        """Tokens that an answer to `tenant` by `target` usually has: by its own answers, else by those of all tenants,
        else `default`."""
        for key in ((tenant, target), (None, target)):
            lengths = self._known.get(key)
            if lengths is not None and (usual := lengths.usual()) is not None:
                self._known.move_to_end(key)
                return usual
        return default

    def learn(self, tenant: str, target: str, tokens: int) -> None:
        """An answer to `tenant` by `target` had `tokens`."""
        for key in ((tenant, target), (None, target)):
            self._known.setdefault(key, Lengths()).add(tokens)
            self._known.move_to_end(key)
        while len(self._known) > self._max:
            self._known.popitem(last=False)

    def __repr__(self) -> str:
        return f"<Expectation {len(self._known)} known>"
