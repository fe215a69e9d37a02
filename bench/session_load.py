"""Load on an InferenceService by a session, from this process: frames are read raw, which costs the reader little."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from bench.load import DEADLINE_S, Streamed, spec
from spillway import v1
from spillway.rpc.methods import SESSION
from spillway.rpc.options import channel_options

CREDIT = 16
"""Events of a generation that may wait to be read, as the client of spillway.session has it."""
RECEIVE_BYTES = 2**24


@dataclass(slots=True)
class Framed(Streamed):
    """What the reader of a session saw."""

    frames: int = 0

    def __str__(self) -> str:
        return (
            f"{self.tokens / self.frames:.1f} tokens a frame, {self.frames / self.wall_s:.0f} frames/s, "
            f"{Streamed.__str__(self)}"
        )


class Link:
    """A session: `begin` generations, `read` what happens to them."""

    def __init__(self, rpc: Any) -> None:
        self._rpc = rpc
        self._last = 0

    async def begin(self, request: v1.StreamGenerateRequest, count: int = 1) -> range:
        """Start `count` generations in one frame; return their ids."""
        ids = range(self._last + 1, self._last + 1 + count)
        self._last = ids[-1]
        frame = v1.SessionRequest()
        for number in ids:
            frame.starts.add(id=number, request=request, deadline_ms=round(DEADLINE_S * 1000), credit=CREDIT)
        await self._rpc.write(frame)
        return ids

    async def cancel(self, ids: range) -> None:
        """Wait for generations no longer."""
        await self._rpc.write(v1.SessionRequest(cancels=ids))

    async def read(self) -> v1.RawSessionResponse:
        """Return the next frame. Raises AioRpcError where the session broke, RuntimeError where it ended."""
        frame = await self._rpc.read()
        if not isinstance(frame, v1.RawSessionResponse):
            raise RuntimeError(f"the session ended: {await self._rpc.code()} {await self._rpc.details()}")
        return frame

    async def credit(self, taken: dict[int, int]) -> None:
        """Let those send on of whom half of what they may send has been `taken`; they are taken out of it."""
        half = [number for number, events in taken.items() if events * 2 >= CREDIT]
        if half:
            frame = v1.SessionRequest()
            for number in half:
                frame.credits.add(id=number, events=taken.pop(number))
            await self._rpc.write(frame)


@asynccontextmanager
async def linked(address: str) -> AsyncIterator[Link]:
    """A session with `address` for the block."""
    options = channel_options(max_receive_bytes=RECEIVE_BYTES)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        rpc = channel.stream_stream(
            SESSION,
            request_serializer=v1.SessionRequest.SerializeToString,
            response_deserializer=v1.RawSessionResponse.FromString,
        )()
        try:
            yield Link(rpc)
        finally:
            rpc.cancel()


async def streams(address: str, count: int, words: int, window_ms: int) -> Framed:
    """Read `count` generations of `words` tokens at once, begun in one frame."""
    seen = Framed()
    async with linked(address) as link:
        began = time.perf_counter()
        last = dict.fromkeys(
            await link.begin(v1.StreamGenerateRequest(spec=spec(words, window_ms)), count), began
        )  # of each that runs: when it was heard of
        taken: dict[int, int] = {}
        while last:
            frame = await link.read()
            now = time.perf_counter()
            seen.frames += 1
            for number, tokens in zip(frame.ids[:], frame.tokens[:], strict=True):
                if tokens:
                    (seen.first if last[number] == began else seen.gaps).append(now - last[number])
                    last[number] = now
                    seen.messages += 1
                    seen.tokens += tokens
                taken[number] = taken.get(number, 0) + 1
            for number in ended(frame):
                taken.pop(number, None)
                del last[number]
            await link.credit(taken)
        seen.wall_s = time.perf_counter() - began
    return seen


async def calls(address: str, total: int, callers: int, *, batched: bool) -> Streamed:
    """Make `total` generations of one token, `callers` at once.

    Each has a frame of its own; `batched`: all `callers` begin in one, and the next ones when they have all ended.
    """
    request = v1.StreamGenerateRequest(spec=spec(1))
    seen = Streamed()
    async with linked(address) as link:
        waits = deque([callers] * (total // callers) if batched else [1] * total)
        began = time.perf_counter()
        running: dict[int, float] = {}
        while waits or running:
            while waits and len(running) + waits[0] <= callers:
                now = time.perf_counter()
                running |= dict.fromkeys(await link.begin(request, waits.popleft()), now)
            frame = await link.read()
            for number, tokens in zip(frame.ids[:], frame.tokens[:], strict=True):
                if tokens:
                    seen.first.append(time.perf_counter() - running[number])
            for number in ended(frame):
                del running[number]
        seen.wall_s = time.perf_counter() - began
    return seen


def ended(frame: v1.RawSessionResponse) -> list[int]:
    """Generations that have ended well. Raises RuntimeError for one that has not."""
    for told in frame.ended:
        if told.status:
            raise RuntimeError(f"a generation failed: {told.status!r}")
    return [told.id for told in frame.ended]
