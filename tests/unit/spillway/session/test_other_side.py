"""What the other side of a session does wrong harms no more than it must, and is told as what it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from spillway import errors, v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call, enter
from spillway.rpc.lane import Lane
from spillway.rpc.methods import SESSION
from spillway.rpc.server import Service
from spillway.session.client import Session
from spillway.session.link import Link, SessionRefused
from spillway.session.outbox import MAX_FRAME_BYTES, MAX_FRAMES, Outbox
from spillway.session.server import MAX_CREDIT, Sessions, _Generation
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services
from spillway.v1 import inference_pb2_grpc
from tests.unit.spillway.conftest import INFERENCE

SPEC = v1.GenerationSpec(text=v1.TextPrompt(text="hello"))
STREAM = v1.StreamGenerateRequest(spec=SPEC)
WHOLE = v1.GenerateRequest(spec=SPEC)
WRONG = b"\xff"
"""No message."""

Frames = Callable[[v1.SessionRequest], list[v1.RawSessionResponse]]


class Peer(inference_pb2_grpc.InferenceServiceServicer):
    """Answers each frame with `frames`, and then waits, or `ends` the session."""

    def __init__(self, frames: Frames, *, ends: bool = False) -> None:
        self._frames = frames
        self._ends = ends

    async def Session(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            for frame in self._frames(request):
                yield frame.SerializeToString()
            if self._ends:
                return


@pytest.fixture
async def ask(mesh: Any) -> AsyncIterator[Any]:
    """A session with a server whose side of it is `frames`."""
    opened: list[Session] = []

    async def make(frames: Frames, *, ends: bool = False) -> Session:
        add = inference_pb2_grpc.add_InferenceServiceServicer_to_server
        peer = Peer(frames, ends=ends)  # type: ignore[abstract]  # what it lacks is not asked
        opened.append(Session(mesh.client(await mesh.serve(Service(INFERENCE, peer, add))).remote))
        return opened[-1]

    yield make
    for session in opened:
        await session.close()


async def read(session: Session, call: Call) -> list[v1.GenerationEvent]:
    async with session.stream(STREAM, call, span_name="test") as responses:
        return [response.event async for response in responses]


def raw(mesh: Any, server: Any) -> Any:
    return mesh.client(server).remote.channel.stream_stream(
        SESSION, request_serializer=bytes, response_deserializer=v1.SessionResponse.FromString
    )()


# The server is wrong.


async def test_an_event_that_is_none_is_the_fault_of_its_target(ask: Any, call: Any) -> None:
    session = await ask(lambda _: [v1.RawSessionResponse(ids=[1], events=[WRONG], tokens=[0])])
    with pytest.raises(errors.TargetDown):
        await read(session, call())


async def test_a_whole_answer_that_is_none_is_the_fault_of_its_target(ask: Any, call: Any) -> None:
    session = await ask(lambda _: [v1.RawSessionResponse(ended=[v1.RawSessionEnded(id=1, answer=WRONG)])])
    with pytest.raises(errors.TargetDown):
        await session.generate(WHOLE, call(), span_name="test")


async def test_a_status_that_is_none_is_the_fault_of_its_target_and_ends_that_generation_alone(
    ask: Any, call: Any
) -> None:
    def frames(request: v1.SessionRequest) -> list[v1.RawSessionResponse]:
        status = {1: WRONG, 2: b""}
        ended = [v1.RawSessionEnded(id=start.id, status=status[start.id]) for start in request.starts]
        return [v1.RawSessionResponse(ended=ended)]

    session = await ask(frames)
    with pytest.raises(errors.TargetDown):
        await read(session, call())
    assert await read(session, call()) == []


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_what_ends_a_session_does_not_say_that_a_request_in_it_was_wrong_or_late(
    mesh: Any, call: Any, code: grpc.StatusCode
) -> None:
    class Broken(inference_pb2_grpc.InferenceServiceServicer):
        async def Session(self, requests: Any, context: Any) -> Any:
            async for _ in requests:  # what is not sent yet when a session breaks counts as refused
                await context.abort(code, "broken")
            yield

    add = inference_pb2_grpc.add_InferenceServiceServicer_to_server
    server = await mesh.serve(Service(INFERENCE, Broken(), add))  # type: ignore[abstract]  # what it lacks is not asked
    session = Session(mesh.client(server).remote)
    with pytest.raises(errors.TargetDown):
        await read(session, call())
    await session.close()


async def test_a_session_that_ends_before_a_generation_has_begun_refused_it(ask: Any, call: Any) -> None:
    session = await ask(lambda _: [], ends=True)
    with pytest.raises(SessionRefused):
        await read(session, call())


class Ended:
    """An rpc that has ended in order after its first frame, as gRPC tells who writes the second."""

    def __init__(self) -> None:
        self._frames = 0
        self._over = asyncio.Event()
        self._error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata())

    async def write(self, frame: v1.SessionRequest) -> None:
        self._frames += 1
        if self._frames == 2:
            self._over.set()
            raise self._error

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        await self._over.wait()
        raise self._error

    def cancel(self) -> None:
        self._over.set()


async def test_what_was_written_after_the_end_of_a_session_was_refused_by_it(call: Any) -> None:
    link = Link(Ended(), lambda: True, 0)  # type: ignore[arg-type]  # as much of an rpc as is used
    sent = link.start({"request": STREAM}, 0, call(30), "there", 16, None)
    for _ in range(5):
        await asyncio.sleep(0)
    unsent = link.start({"request": STREAM}, 0, call(30), "there", 16, None)
    with pytest.raises(errors.TargetDown):
        await anext(sent)
    with pytest.raises(SessionRefused):
        await anext(unsent)
    sent.leave()
    unsent.leave()


async def test_what_had_come_whole_before_the_deadline_is_read_whole(ask: Any, until: Any) -> None:
    event = v1.GenerationEvent(finished=v1.Finished()).SerializeToString()
    ended = [v1.RawSessionEnded(id=1)]
    session = await ask(lambda _: [v1.RawSessionResponse(ids=[1, 1], events=[event] * 2, tokens=[0, 0], ended=ended)])
    async with session.stream(STREAM, Call("mine", Deadline.after(30)), span_name="test") as responses:
        first = await anext(responses)
        responses.late()
        assert [first.event, *[told.event async for told in responses]] == [v1.GenerationEvent.FromString(event)] * 2


@pytest.mark.parametrize("whole", [True, False])
async def test_an_answer_that_is_too_long_for_a_message_fails_alone(mesh: Any, call: Any, whole: bool) -> None:
    answers = {"hello": "word " * 100, "long": "x" * (16 * 2**20)}
    engine = FakeEngine(answer=lambda spec: answers[spec.text.text])
    session = Session(mesh.client(await mesh.serve(*services(engine))).remote)
    long = v1.GenerationSpec(text=v1.TextPrompt(text="long"))
    async with session.stream(STREAM, call(30), span_name="test") as beside:
        await anext(beside)
        with pytest.raises(errors.RequestInvalid, match="larger than"):
            if whole:
                await session.generate(v1.GenerateRequest(spec=long), call(30), span_name="test")
            async with session.stream(v1.StreamGenerateRequest(spec=long), call(30), span_name="test") as responses:
                async for _ in responses:
                    pass
        assert [response.event async for response in beside][-1].HasField("usage")
    await session.close()


# The client is wrong.


async def test_a_frame_that_cannot_be_read_ends_the_session(mesh: Any, call: Any, until: Any) -> None:
    engine = FakeEngine(answer=lambda spec: "word " * 100_000, interval_s=0.001)
    rpc = raw(mesh, await mesh.serve(*services(engine)))
    start = v1.SessionStart(id=1, request=STREAM, credit=1)
    await rpc.write(v1.SessionRequest(starts=[start]).SerializeToString())
    await until(lambda: engine.running == 1)
    await rpc.write(WRONG)
    async with asyncio.timeout(10):
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be read"):
            async for _ in rpc:
                pass
    await until(lambda: engine.running == 0)


@pytest.mark.parametrize("left", [0, 10_000])
async def test_attempts_left_are_bounded_as_they_are_outside(mesh: Any, call: Any, left: int) -> None:
    engine = FakeEngine()
    rpc = raw(mesh, await mesh.serve(*services(engine)))
    start = v1.SessionStart(id=1, request=STREAM, credit=9, attempts_left=left)
    await rpc.write(v1.SessionRequest(starts=[start]).SerializeToString())
    frame = await rpc.read()
    assert b"REQUEST_INVALID" in frame.ended[0].status
    assert not engine.seen
    rpc.cancel()


async def test_credit_is_bounded_from_the_beginning() -> None:
    generation = _Generation(1, 2**32 - 1, Outbox())
    assert generation.lane.credit == MAX_CREDIT
    generation.give(1)
    assert generation.lane.credit == MAX_CREDIT


async def test_one_whose_credit_is_held_back_is_not_taken_for_one_that_nobody_reads() -> None:
    generation = _Generation(1, 9, Outbox())
    generation.flow(False)
    waiting = asyncio.create_task(generation.credited(0.001))
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    generation.flow(True)
    await waiting
    assert generation.lane.credit == 9
    generation.lane.credit = 0
    with pytest.raises(errors.StreamInterrupted):
        await generation.credited(0.001)


async def test_a_reader_that_does_not_take_what_it_gave_credit_for_holds_back_who_makes_it() -> None:
    made, total = 0, 800
    text = "x" * 2**16

    async def made_by(lane: Lane) -> AsyncGenerator[v1.GenerationEvent]:
        nonlocal made
        lane.open = True
        for number in range(total):
            event = v1.GenerationEvent(sequence=number, delta=v1.Delta(text=text, tokens=1))
            await asyncio.sleep(0)
            made += 1
            if number % 2 or not lane.take(event.SerializeToString(), 1):
                lane.sequence = number + 1
                yield event

    async def generate(request: Any, call: Call, lane: Lane) -> AsyncGenerator[v1.GenerationEvent]:
        return made_by(lane)

    async def asked() -> AsyncGenerator[v1.SessionRequest]:
        yield v1.SessionRequest(starts=[v1.SessionStart(id=number, request=STREAM, credit=2**20) for number in (1, 2)])

    enter(Call("session", Deadline.after(60)))
    sessions = Sessions(generate, ServerSettings(listen="127.0.0.1:0"), tracing=Tracing("test"))
    told: dict[int, list[int]] = {1: [], 2: []}
    most = MAX_FRAMES * MAX_FRAME_BYTES // len(text)
    async with aclosing(sessions.serve(asked())) as frames:
        async for raw in frames:
            for _ in range(4 * total):
                await asyncio.sleep(0)
            frame = v1.SessionResponse.FromString(raw)
            assert [ended.status for ended in frame.ended if ended.status] == []
            for number, event in zip(frame.ids, frame.events, strict=True):
                told[number].append(event.sequence)
            assert made - sum(map(len, told.values())) <= most + 4
    assert told == {1: list(range(total)), 2: list(range(total))}


async def test_a_deadline_of_a_hundred_days_goes_as_it_can(mesh: Any) -> None:
    session = Session(mesh.client(await mesh.serve(*services(FakeEngine()))).remote)
    days = 24 * 3600.0
    call = Call("long", Deadline.after(100 * days), first_token=Deadline.after(60 * days))
    assert (await read(session, call))[-1].HasField("usage")
    await session.close()
