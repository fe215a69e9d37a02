"""How long a server may say nothing in the middle of its answer."""

from __future__ import annotations

import asyncio

import aiohttp


class SilentTooLong(TimeoutError):
    """Nothing came for `seconds`; `within` an answer that had begun."""

    def __init__(self, seconds: float, *, within: bool) -> None:
        super().__init__()
        self.seconds = seconds
        self.within = within


class Silence:
    """Reads the body of `response`, and ends a read that `limit_s` seconds of silence pass in.

    One timer serves a whole answer, however many reads it takes: it looks when the read of that moment began, and comes
    again when that one would be over. A timer for every read, and another for every packet, costs a quarter of all.
    """

    def __init__(self, response: aiohttp.ClientResponse, limit_s: float) -> None:
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._within = False
        self._since: float | None = None
        if (connection := response.connection) is not None and connection.protocol is not None:
            connection.protocol.read_timeout = None  # aiohttp's own timer, for every packet
        self._timer = self._loop.call_later(limit_s, self._look)

    async def read(self) -> bytes:
        """Return what comes next, nothing at the end. Raises SilentTooLong."""
        self._since = self._loop.time()
        data = await self._content.readany()
        self._since = None
        return data

    def begun(self, limit_s: float) -> None:
        """The answer has begun: from now on no more than `limit_s` seconds pass."""
        if not self._within:
            self._within, self._limit_s = True, limit_s
            self._timer.cancel()
            self._timer = self._loop.call_later(limit_s, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._limit_s
        if self._since is not None:  # else nobody waits: what has come has not been asked for yet
            left -= self._loop.time() - self._since
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._content.set_exception(SilentTooLong(self._limit_s, within=self._within))

    def __repr__(self) -> str:
        return f"<Silence {self._limit_s:g} s {'within' if self._within else 'before'} the answer>"
