"""The fleet: one channel to each address that targets are at, kept while the policy names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from spillway.rpc.remote import Remote

from .target import Target
from .target_client import TargetClient


class Fleet:
    """Clients by address. `retire_s` is how long running calls to a target that was removed may take."""

    def __init__(self, connect: Callable[[str], Remote], retire_s: float) -> None:
        self._connect = connect
        self._retire_s = retire_s
        self._clients: dict[str, TargetClient] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def client(self, target: Target) -> TargetClient:
        """The client of `target`, connected when first asked for."""
        client = self._clients.get(target.address)
        if client is None:
            client = self._clients[target.address] = TargetClient(self._connect(target.address))
        return client

    def keep(self, targets: Iterable[Target]) -> None:
        """Let go of addresses that `targets` do not name, once their calls have ended."""
        named = {target.address for target in targets}
        for address in self._clients.keys() - named:
            task = asyncio.create_task(self._clients.pop(address).close(self._retire_s))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Close every channel at once."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def __repr__(self) -> str:
        return f"<Fleet {len(self._clients)} channels {len(self._retiring)} retiring>"
