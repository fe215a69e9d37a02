"""A fake engine as a process: InferenceService with answers whose bytes are ready, one step for all of them at once.

It is a collector of traces and metrics too, that forgets what it is told: a router exports its share of traces to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from functools import cache
from typing import Any, Final

import grpc

from bench.listening import listen
from bench.peers.pace import WORDS, Answer, Pace, Paces, text
from spillway import load, v1
from spillway.rpc import metadata
from spillway.rpc.options import server_options
from spillway.session.outbox import Outbox
from spillway.v1 import engine_pb2_grpc

MODEL: Final = "simulated"
_COLLECTORS: Final = (
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
)
_OTHERS: Final = 2
"""Events after the last token: Finished and Usage."""


@cache
def events(words: int) -> tuple[bytes, ...]:
    """All events of an answer: Started, a Delta a token, Finished and Usage, serialized."""
    choice = v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)
    found = [
        v1.GenerationEvent(started=v1.Started(model=MODEL, target=MODEL, prompt_tokens=5)),
        *(v1.GenerationEvent(delta=v1.Delta(text=WORDS[index % 2], tokens=1)) for index in range(words)),
        v1.GenerationEvent(finished=v1.Finished(choices=[choice])),
        v1.GenerationEvent(usage=v1.Usage(prompt_tokens=5, completion_tokens=words)),
    ]
    for sequence, event in enumerate(found):
        event.sequence = sequence
    return tuple(event.SerializeToString() for event in found)


@cache
def responses(words: int) -> tuple[bytes, ...]:
    """The same as messages of StreamGenerate."""
    told = map(v1.GenerationEvent.FromString, events(words))
    return tuple(v1.StreamGenerateResponse(event=event).SerializeToString() for event in told)


@cache
def whole(words: int) -> bytes:
    """The same as the answer of Generate."""
    choice = v1.Choice(
        content=v1.Delta(text=text(words), tokens=words), finish=v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)
    )
    return v1.GenerateResponse(
        started=v1.Started(model=MODEL, target=MODEL, prompt_tokens=5),
        choices=[choice],
        usage=v1.Usage(prompt_tokens=5, completion_tokens=words),
    ).SerializeToString()


class Turns:
    """How many events of an answer have come due; Started and the first token are at once."""

    def __init__(self, answer: Answer, paces: Paces) -> None:
        self._all = answer.words + 1 + _OTHERS
        self._pace: Pace | None = None
        self.due = self._all
        if answer.interval_ms and answer.words > 1:
            self.due = 2
            self._pace = paces.of(answer)
            self._pace.join(self)

    def step(self) -> bool:
        """One token more; after the last one all there is."""
        self.due += 1
        if self.due + _OTHERS == self._all:
            self.due = self._all
        self.ready()
        return self.due < self._all

    def ready(self) -> None:
        """More has come due."""

    def leave(self) -> None:
        """Nobody waits for it any more."""
        if self._pace is not None:
            self._pace.leave(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.due} of {self._all}>"


class Stream(Turns):
    """An answer in a call of its own."""

    def __init__(self, answer: Answer, paces: Paces) -> None:
        self._more = asyncio.Event()
        super().__init__(answer, paces)

    def ready(self) -> None:
        self._more.set()

    async def more(self) -> None:
        """Return when more has come due."""
        self._more.clear()
        await self._more.wait()


class Generation(Turns):
    """An answer in a session: says what is due as far as there is credit."""

    def __init__(self, start: v1.SessionStart, outbox: Outbox, paces: Paces) -> None:
        answer = _asked(start.request.spec)
        self._number, self._outbox = start.id, outbox
        self._events = events(answer.words)
        self._sent = 0
        self._credit = max(1, start.credit)
        super().__init__(answer, paces)

    def ready(self) -> None:
        last = min(self.due, self._sent + self._credit)
        for index in range(self._sent, last):
            self._outbox.put(self._number, self._events[index], int(0 < index < self._all - _OTHERS))
        self._credit -= last - self._sent
        self._sent = last
        if self.ended:
            self._outbox.end(self._number, b"")

    def give(self, credit: int) -> None:
        """Its reader takes so many more."""
        if not self.ended:
            self._credit += credit
            self.ready()

    @property
    def ended(self) -> bool:
        """All of it has been said."""
        return self._sent == self._all


class Engine:
    """The rpcs, as far as they are asked for; requests and answers are bytes."""

    def __init__(self) -> None:
        self._paces = Paces()

    async def generate(self, request: bytes, context: Any) -> bytes:
        """An answer without a pace."""
        await context.send_initial_metadata(metadata.ALIVE)
        return whole(Answer.asked(request).words)

    async def stream(self, request: bytes, context: Any) -> AsyncGenerator[bytes]:
        """A message for each event."""
        answer = Answer.asked(request)
        told = responses(answer.words)
        stream, sent = Stream(answer, self._paces), 0
        try:
            while sent < len(told):
                if sent == stream.due:
                    await stream.more()
                yield told[sent]
                sent += 1
        finally:
            stream.leave()

    async def session(self, requests: AsyncIterator[v1.SessionRequest], context: Any) -> AsyncGenerator[bytes]:
        """A frame for each step."""
        outbox = Outbox()
        generations: dict[int, Generation] = {}
        reading = asyncio.create_task(self._read(requests, outbox, generations))
        try:
            async for frame in outbox.frames():
                yield frame
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            for generation in generations.values():
                generation.leave()

    async def _read(
        self, requests: AsyncIterator[v1.SessionRequest], outbox: Outbox, generations: dict[int, Generation]
    ) -> None:
        async for request in requests:
            for start in request.starts:
                if start.HasField("generate"):
                    outbox.end(start.id, b"", answer=whole(_asked(start.generate.spec).words))
                    continue
                generation = generations[start.id] = Generation(start, outbox, self._paces)
                generation.ready()
            for number in request.cancels:
                if (left := generations.pop(number, None)) is not None:
                    left.leave()
            for credit in request.credits:
                if (taken := generations.get(credit.id)) is not None:
                    taken.give(credit.events)
            for number in [number for number, each in generations.items() if each.ended]:
                del generations[number]
        outbox.close()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a server needs to serve this."""
        inference: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Generate": grpc.unary_unary_rpc_method_handler(self.generate),
            "StreamGenerate": grpc.unary_stream_rpc_method_handler(self.stream),
            "Session": grpc.stream_stream_rpc_method_handler(
                self.session, request_deserializer=v1.SessionRequest.FromString
            ),
        }
        export: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Export": grpc.unary_unary_rpc_method_handler(_forget)}
        collectors = [grpc.method_handlers_generic_handler(name, export) for name in _COLLECTORS]
        return [grpc.method_handlers_generic_handler("spillway.v1.InferenceService", inference), *collectors]

    def __repr__(self) -> str:
        return f"<Engine {self._paces!r}>"


class Telemetry(engine_pb2_grpc.EngineTelemetryServiceServicer):
    """An engine that always serves."""

    async def GetLoad(self, request: v1.GetLoadRequest, context: Any) -> v1.GetLoadResponse:
        return v1.GetLoadResponse(load=_load())

    def WatchLoad(self, request: v1.WatchLoadRequest, context: Any) -> AsyncIterator[v1.WatchLoadResponse]:
        return load.watch(request, _load)


def _asked(spec: v1.GenerationSpec) -> Answer:
    return Answer.asked(spec.chat.messages[-1].parts[0].text.encode())


def _load() -> v1.Load:
    return v1.Load(state=v1.ENGINE_STATE_SERVING, running=0, waiting=0, age_ms=0)


async def _forget(request: bytes, context: Any) -> bytes:
    return b""


async def main() -> None:
    server = grpc.aio.server(options=server_options(max_receive_bytes=2**24))
    for handler in Engine().handlers():
        server.add_generic_rpc_handlers((handler,))
    engine_pb2_grpc.add_EngineTelemetryServiceServicer_to_server(Telemetry(), server)
    await listen(server)


if __name__ == "__main__":
    asyncio.run(main())
