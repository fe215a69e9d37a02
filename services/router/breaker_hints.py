"""Hints on sick targets and leases of probes, as all routers share them on the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spillway.logs import get_logger
from spillway.store.redis import Script, Store, StoreUnavailable

from . import breaker_scripts as scripts

log = get_logger(__name__)

KEPT_S = 60.0
"""A hint is kept for so long after its end, so that a closing finds what it closes and is seen by all."""
GONE_S = 30.0
"""A router not seen for so long is gone."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What a router said of `target`. `state`: open, closed or reset; `left_s`: of being open."""

    target: str
    id: str
    state: str
    left_s: float
    router: str
    why: str


class Hints:
    """One router's side of them. Every method raises StoreUnavailable; `alone` says whether the last one did."""

    def __init__(self, store: Store, router: str) -> None:
        self._store = store
        self.router = router
        self.alone = False

    async def tell(self, target: str, state: str, *, left_s: float = 0.0, why: str = "") -> None:
        """Tell all routers that `target` is `open`, `closed` again (if it was open), or `reset` by an operator."""
        times = [_us(left_s), _us(KEPT_S)]
        await self._run(scripts.TELL, [scripts.HINTS], [target, state, *times, f"{self.router} {why}"])

    async def look(self) -> tuple[int, list[Hint]]:
        """Return how many routers there are and what they said, this one among them."""
        routers, *parts = await self._run(scripts.LOOK, [scripts.HINTS, scripts.ROUTERS], [self.router, _us(GONE_S)])
        hints = []
        for at in range(0, len(parts), 5):
            target, till, state, left_us, text = (_text(part) for part in parts[at : at + 5])
            router, _, why = text.partition(" ")
            hints.append(Hint(target, f"{till} {state}", state, int(left_us) / 1e6, router, why))
        return routers, hints

    async def lease(self, target: str, lease: str, *, probes: int, seconds: float) -> float:
        """Return 0 if `lease` may probe `target` for `seconds`, else the seconds until another may be free."""
        keys = [scripts.probes(target), scripts.HINTS]
        left_us: int = await self._run(scripts.LEASE, keys, [lease, target, probes, _us(seconds)])
        return left_us / 1e6

    async def release(self, target: str, lease: str) -> None:
        """End a lease."""
        await self._run(scripts.RELEASE, [scripts.probes(target)], [lease])

    async def _run(self, script: Script, keys: list[str], arguments: list[str | int]) -> Any:
        try:
            found = await self._store.run(script, keys, arguments)
        except StoreUnavailable as error:
            if not self.alone:
                log.warning("breakers.alone", why=str(error), rule="this router goes by what it sees itself")
            self.alone = True
            raise
        if self.alone:
            log.info("breakers.together")
        self.alone = False
        return found

    def __repr__(self) -> str:
        return f"<Hints {self.router} {'alone' if self.alone else 'together'}>"


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))


def _text(part: bytes | int) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
