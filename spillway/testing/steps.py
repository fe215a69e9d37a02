"""The steps of an engine: one computes a token for all its streams at once."""

from __future__ import annotations

import asyncio


class Steps:
    """One step each `interval_s` seconds; who waits for the same one is woken in one turn of the loop."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def taken(self) -> int:
        """Steps that have been taken so far."""
        return int((self._loop.time() - self._began) / self.interval_s)

    async def reach(self, step: int) -> None:
        """Return when `step` steps have been taken."""
        if self.taken >= step:
            return
        waiter = self._loop.create_future()
        self._waiting.setdefault(step, []).append(waiter)
        if self._timer is None or step <= min(self._waiting):
            self._arm()
        await waiter

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._waiting:
            self._timer = self._loop.call_at(self._began + min(self._waiting) * self.interval_s, self._step)

    def _step(self) -> None:
        taken = self.taken
        for step in [step for step in self._waiting if step <= taken]:
            for waiter in self._waiting.pop(step):
                if not waiter.done():
                    waiter.set_result(None)
        self._arm()

    def __repr__(self) -> str:
        return f"<Steps {self.taken}, {sum(map(len, self._waiting.values()))} waiting>"
