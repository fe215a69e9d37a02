"""The leases of single-call runtimes, told to operators: the engines before the runtimes take and keep them."""

from __future__ import annotations

from typing import Any

from spillway import lease, v1
from spillway.errors import RequestInvalid, TargetDown, TargetUnknown
from spillway.store.redis import Script, Store, StoreUnavailable


class Leases:
    """What the store says of them. Every method raises RequestInvalid without a store, TargetDown while it is away."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def told(self, name: str = "") -> list[v1.Lease]:
        """The lease `name`, or all of them, by name. Raises TargetUnknown."""
        if name:
            return [await self._stands(name, lease.LOOK)]
        found = []
        for known in await self._names():
            standing = lease.standing(known, await self._run(lease.LOOK, lease.keys(known)))
            if standing is not None:
                found.append(_tell(standing))
        return found

    async def release(self, name: str) -> v1.Lease:
        """Have the calls that hold the lease `name` end. Raises TargetUnknown."""
        return await self._stands(name, lease.END, lease.channel(name))

    async def _stands(self, name: str, script: Script, *arguments: str) -> v1.Lease:
        standing = lease.standing(name, await self._run(script, lease.keys(name), *arguments))
        if standing is None:
            known = ", ".join((await self._names())[:20]) or "none"
            raise TargetUnknown(f"name: no lease is called {name[:100]!r}; known: {known}", resource=name[:100])
        return _tell(standing)

    async def _names(self) -> list[str]:
        return sorted(name.decode(errors="replace") for name in await self._run(lease.LIST, [lease.NAMES]))

    async def _run(self, script: Script, keys: list[str], *arguments: str) -> Any:
        if self._store is None:
            raise RequestInvalid("this router has no store: leases are kept where store.url says, for all who share it")
        try:
            return await self._store.run(script, keys, arguments)
        except StoreUnavailable as error:
            raise TargetDown(f"the store is away: {error}", resource="store", retry_after_s=1.0) from None

    def __repr__(self) -> str:
        return f"<Leases on {self._store!r}>"


def _tell(standing: lease.Standing) -> v1.Lease:
    holders = [
        v1.LeaseHolder(
            owner=holder.owner,
            request_id=holder.request_id,
            fencing_token=holder.fencing,
            held_s=holder.held_s,
            left_s=holder.left_s,
            released=holder.ended,
        )
        for holder in standing.holders
    ]
    return v1.Lease(name=standing.name, slots=standing.slots, holders=holders, waiting=standing.waiting)
