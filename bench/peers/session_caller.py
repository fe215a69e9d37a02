"""Calls over a session. Events are not looked into: a delta's tokens are told beside it."""

from __future__ import annotations

import asyncio
import time

import grpc

from bench.peers.load import Failed, Reading, Seen
from bench.peers.pace import Answer
from spillway import v1
from spillway.rpc.methods import SESSION
from spillway.rpc.options import channel_options
from spillway.session.client import WINDOW

DEADLINE_MS = 120_000


class _Generation:
    __slots__ = ("ended", "reading", "taken")

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.taken = 0
        self.ended: asyncio.Future[v1.RawSessionEnded] = asyncio.get_running_loop().create_future()


class SessionCaller:
    """All calls share one session. What is to be said in one turn of the loop goes in one frame."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=channel_options(max_receive_bytes=2**24))
        method = self._channel.stream_stream(
            SESSION,
            request_serializer=v1.SessionRequest.SerializeToString,
            response_deserializer=v1.RawSessionResponse.FromString,
        )
        self._rpc = method()
        self._generations: dict[int, _Generation] = {}
        self._last = 0
        self._frame = v1.SessionRequest()
        self._wanted = asyncio.Event()
        self._broken = ""
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    async def call(self, request: v1.GenerationSpec, answer: Answer, seen: Seen, *, whole: bool) -> None:
        """Read one answer to its end. Raises Failed for one that does not end well."""
        if self._broken:
            raise Failed(self._broken)
        self._last = number = self._last + 1
        generation = self._generations[number] = _Generation(Reading(seen, time.perf_counter()))
        start = self._frame.starts.add(id=number, deadline_ms=DEADLINE_MS, credit=WINDOW)
        (start.generate if whole else start.request).spec.CopyFrom(request)
        self._wanted.set()
        try:
            ended = await generation.ended
        finally:
            del self._generations[number]
            if not generation.ended.done() or generation.ended.cancelled():
                self._frame.cancels.append(number)
                self._wanted.set()
        if whole:
            told = v1.GenerateResponse.FromString(ended.answer)
            generation.reading.take(told.usage.completion_tokens, 1, time.perf_counter())
        if ended.status or generation.reading.tokens != answer.words:
            raise Failed(f"{generation.reading.tokens} tokens of {answer.words}, status {ended.status[:80]!r}")

    async def _read(self) -> None:
        try:
            async for frame in self._rpc:
                now = time.perf_counter()
                for number, tokens in zip(frame.ids[:], frame.tokens[:], strict=True):
                    generation = self._generations.get(number)
                    if generation is None:
                        continue
                    if tokens:
                        generation.reading.take(tokens, 1, now)
                    generation.taken += 1
                    if generation.taken * 2 >= WINDOW:
                        self._frame.credits.add(id=number, events=generation.taken)
                        generation.taken = 0
                        self._wanted.set()
                for ended in frame.ended:
                    generation = self._generations.get(ended.id)
                    if generation is not None and not generation.ended.done():
                        generation.ended.set_result(ended)
        except grpc.aio.AioRpcError as broken:
            self._broken = f"the session broke: {broken.code().name} {broken.details()}"
        finally:
            self._broken = self._broken or "the session ended"
            for generation in self._generations.values():
                if not generation.ended.done():
                    generation.ended.set_exception(Failed(self._broken))

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            frame, self._frame = self._frame, v1.SessionRequest()
            await self._rpc.write(frame)

    async def close(self) -> None:
        """End the session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._rpc.cancel()
        await self._channel.close()

    def __repr__(self) -> str:
        return f"<SessionCaller {len(self._generations)} generations>"
