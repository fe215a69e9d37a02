"""One engine's side of a lease on the shared store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from spillway import lease
from spillway.logs import get_logger
from spillway.store.redis import Script, Store, StoreUnavailable

from .lease_settings import LeaseSettings
from .line import Ticket
from .tenure import Tenure

log = get_logger(__name__)

LOOK_S = 1.0
"""Longest pause before a call that waits asks again: news may be lost, and nobody tells of who died."""
KEPT_S = 3.0
"""A place in the line of all engines is kept for so long; it is taken again at every look."""


class Claims:
    """Takes, renews and frees `name` for `owner`. Raises StoreUnavailable; `away` says whether the last step did."""

    def __init__(self, store: Store, settings: LeaseSettings, name: str, owner: str) -> None:
        self._store = store
        self._settings = settings
        self._keys = lease.keys(name)
        self._channel = lease.channel(name)
        self._freeing: set[asyncio.Task[None]] = set()
        self.name = name
        self.owner = owner
        self.away = False

    async def take(self, ticket: Ticket, *, waited_s: float, waiting: int) -> tuple[int, float, int]:
        """Return the fencing token, or 0; the seconds after which to ask again without news; who waits besides.

        Asking again for the same ticket is the same hold. `waiting` calls are in the line here, this one among them.
        """
        told = self._settings
        fencing, again_us, beside = await self._run(
            lease.TAKE,
            [
                *(self.name, ticket.token, _us(told.ttl_s), _us(told.max_hold_s), told.slots, int(ticket.background)),
                *(_us(waited_s), _us(KEPT_S), waiting, self.owner, ticket.request_id),
            ],
        )
        return int(fencing), min(LOOK_S, again_us / 1e6), max(0, beside - (not int(fencing)))

    async def renew(self, ticket: Ticket, tenure: Tenure, held_s: float) -> float:
        """Return the seconds it is held from now; 0 if it is gone, -1 if an operator wants it back."""
        told = self._settings
        left_us = await self._run(
            lease.RENEW,
            [
                *(ticket.token, _us(told.ttl_s), told.slots, tenure.fencing, _us(held_s), _us(told.max_hold_s)),
                *(self.owner, ticket.request_id),
            ],
        )
        return left_us / 1e6 if left_us > 0 else float(left_us)

    def free(self, ticket: Ticket) -> None:
        """Give a hold back, or a place in the line, behind the caller's back; what cannot be told ends by itself."""
        task = asyncio.create_task(self._free(ticket), name="lease-free")
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)

    async def freed(self) -> None:
        """Return when everything has been given back."""
        while self._freeing:
            await asyncio.wait(set(self._freeing))

    def news(self) -> AsyncGenerator[str, None]:
        """`Store.listen` of what is told about this lease."""
        return self._store.listen(self._channel)

    async def _free(self, ticket: Ticket) -> None:
        try:
            await self._run(lease.FREE, [ticket.token, self._channel])
        except StoreUnavailable:
            log.debug("lease.not_freed", lease=self.name)

    async def _run(self, script: Script, arguments: list[str | int]) -> Any:
        try:
            found = await self._store.run(script, self._keys, arguments)
        except StoreUnavailable as error:
            if not self.away:
                log.warning("lease.alone", lease=self.name, why=str(error), rule=self._settings.without_store)
            self.away = True
            raise
        if self.away:
            log.info("lease.together", lease=self.name)
        self.away = False
        return found

    def __repr__(self) -> str:
        return f"<Claims {self.owner} on {self.name} {'alone' if self.away else 'together'}>"


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
