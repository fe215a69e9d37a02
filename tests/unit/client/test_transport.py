"""Generations of one client that run at once share a session, and nobody can tell by what comes of them."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import yaml
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.typing import EventDict

from spillway import errors, v1
from spillway.client import Client, connect
from spillway.rpc.keys import hash_key
from spillway.rpc.server import Server, Service
from spillway.session.client import MAX_START_BYTES
from spillway.session.server import Sessions, at_once
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, Servicer
from spillway.testing.faults import Cut, Refuse, Script, Silence, Stall
from spillway.testing.server import LOOPBACK, serving
from spillway.v1 import inference_pb2_grpc
from tests.unit.client.ways import Ask, asked, both_ways, read

ENDLESS = "word " * 100_000


class Counted(Servicer):
    """A fake engine that counts its rpcs."""

    def __init__(self, engine: FakeEngine, sessions: Sessions) -> None:
        super().__init__(engine, sessions)
        self.sessions = sessions
        self.rpcs: Counter[str] = Counter()
        self.breaks: grpc.StatusCode | None = None
        """What every session breaks with, at its first frame: what is not sent by then counts as refused."""

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        self.rpcs["Generate"] += 1
        return await super().Generate(request, context)

    def StreamGenerate(self, request: v1.StreamGenerateRequest, context: Any) -> Any:
        self.rpcs["StreamGenerate"] += 1
        return super().StreamGenerate(request, context)

    async def Session(self, requests: AsyncIterator[v1.SessionRequest], context: Any) -> Any:
        self.rpcs["Session"] += 1
        if self.breaks is not None:
            await anext(aiter(requests))
            await context.abort(self.breaks, "no sessions today")
        async for frame in super().Session(requests, context):
            yield frame


def counted(engine: FakeEngine, settings: ServerSettings) -> tuple[Counted, Service]:
    """What a server needs to serve `engine` and count."""
    sessions = Sessions(at_once(engine.generate), settings, tracing=Tracing("engine"))
    servicer = Counted(engine, sessions)
    add = inference_pb2_grpc.add_InferenceServiceServicer_to_server
    return servicer, Service("spillway.v1.InferenceService", servicer, add, sessions)


class Rig:
    """One server of a fake engine, and a client of it."""

    def __init__(self, server: Server, servicer: Counted, engine: FakeEngine) -> None:
        self.server, self.servicer, self.engine = server, servicer, engine
        self.client: Client

    @property
    def rpcs(self) -> Counter[str]:
        return self.servicer.rpcs


Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def rig() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def make(
            engine: FakeEngine | None = None, *, tracing: Tracing | None = None, key: str | None = None, **more: Any
        ) -> Rig:
            engine = engine or FakeEngine()
            settings = LOOPBACK.model_copy(update=more)
            servicer, service = counted(engine, settings)
            one = Rig(await stack.enter_async_context(serving(service, settings=settings)), servicer, engine)
            one.client = await stack.enter_async_context(connect(one.server.address, tracing=tracing, key=key))
            return one

        yield make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_generations_one_after_the_other_have_a_call_of_their_own_each(rig: Make) -> None:
    one = await rig()
    await asked(one.client)
    await read(one.client)
    await asked(one.client)
    assert one.rpcs == {"Generate": 2, "StreamGenerate": 1}


@both_ways
async def test_what_begins_while_another_is_under_way_goes_in_a_session(rig: Make, ask: Ask) -> None:
    one = await rig(FakeEngine(faults=Script(Stall(1))))
    async with one.client.stream("Hi") as first:
        await anext(aiter(first))
        assert (await ask(one.client)).text == "one two three four five"
        assert one.rpcs == {"StreamGenerate": 1, "Session": 1}
    await ask(one.client)
    assert one.rpcs["Session"] == 1, "alone again, it has a call of its own"


async def test_many_at_once_share_one_session_and_each_gets_its_own_answer(rig: Make) -> None:
    one = await rig(FakeEngine(answer=lambda spec: spec.chat.messages[0].parts[0].text * 3, interval_s=0.0001))
    prompts = [f"word{number} " for number in range(40)]
    answers = await asyncio.gather(*((asked, read)[n % 2](one.client, prompt) for n, prompt in enumerate(prompts)))
    assert [answer.text for answer in answers] == [prompt * 3 for prompt in prompts]
    assert one.rpcs == {"Generate": 1, "Session": 1}
    assert len({answer.request_id for answer in answers}) == 40


@both_ways
async def test_an_answer_is_the_same_in_a_session_and_outside(rig: Make, ask: Ask) -> None:
    one = await rig(FakeEngine(probability=0.5))
    options = {"request_id": "r-1", "logprobs": 1, "prompt_logprobs": 1, "max_tokens": 3}
    outside = await ask(one.client, "What is it?", **options)
    async with one.client.session() as session:
        inside = await ask(session, "What is it?", **options)
    assert inside.message == outside.message
    assert one.rpcs["Session"] == 1


@both_ways
@pytest.mark.parametrize(
    "error",
    [
        errors.ProviderRateLimited("too many", retry_after_s=2.5, resource="acme"),
        errors.ContextLengthExceeded("too long", metadata={"tokens": "9"}),
        errors.RequestInvalid.at("spec.sampling", "is odd"),
        errors.TargetDraining("an engine behind it is about to stop"),
    ],
    ids=repr,
)
async def test_an_error_says_the_same_in_a_session_and_outside(
    rig: Make, ask: Ask, error: errors.SpillwayError
) -> None:
    one = await rig(FakeEngine(faults=Script(always=Refuse(error))))
    with pytest.raises(type(error)) as outside:
        await ask(one.client)
    async with one.client.session() as session:
        with pytest.raises(type(error)) as inside:
            await ask(session)
    assert repr(inside.value) == repr(outside.value)
    assert vars(inside.value) == vars(outside.value)
    assert sum(one.rpcs.values()) == 2, "nothing is asked twice"


@pytest.mark.parametrize("together", [False, True])
async def test_inside_the_block_of_a_stream_an_error_is_the_contracts_too(rig: Make, together: bool) -> None:
    one = await rig(FakeEngine(faults=Script(Cut(2))))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(one.client.session()) if together else one.client
        stream = await stack.enter_async_context(client.stream("Hi"))
        with pytest.raises(errors.TargetDown, match="scripted"):
            async for _ in stream:
                pass
        assert stream.text == "one two"


@pytest.mark.parametrize("together", [False, True])
async def test_inside_the_block_of_a_stream_the_end_of_its_client_is_an_error_too(rig: Make, together: bool) -> None:
    one = await rig(FakeEngine(faults=Script(Stall(1))))
    client = Client(one.client._dial, Tracing("client"), together=together)

    async def left_with() -> Exception | None:
        async with client.stream("Hi") as stream:
            try:
                async for _ in stream:
                    pass
            except errors.SpillwayError as error:
                return error
        return None

    reading = asyncio.create_task(left_with())
    await until(lambda: one.engine.running == 1)
    await client.close()
    assert isinstance(await reading, errors.TargetDown)


@both_ways
async def test_a_large_request_goes_in_a_call_of_its_own(rig: Make, ask: Ask) -> None:
    one = await rig()
    async with one.client.session() as session:
        await ask(session, "x" * MAX_START_BYTES)
        assert "Session" not in one.rpcs
        await ask(session)
    assert one.rpcs["Session"] == 1


# Where there are no sessions, or none just now.


@both_ways
async def test_without_sessions_on_the_other_side_each_has_a_call_of_its_own_for_good(
    rig: Make, ask: Ask, logged: list[EventDict]
) -> None:
    one = await rig()
    one.servicer.breaks = grpc.StatusCode.UNIMPLEMENTED
    for _ in range(2):
        answers = await asyncio.gather(*(ask(one.client) for _ in range(5)))
        assert {answer.text for answer in answers} == {"one two three four five"}
    assert one.rpcs.pop("Session") == 1
    assert sum(one.rpcs.values()) == 10
    assert [event["event"] for event in logged if event["event"].startswith("client.")] == ["client.without_sessions"]


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as events:
        yield events


@both_ways
async def test_what_a_session_about_to_end_does_not_take_up_goes_in_a_call_of_its_own(rig: Make, ask: Ask) -> None:
    one = await rig(FakeEngine(faults=Script(Stall(1))))
    async with one.client.session() as session, session.stream("Hi") as running:
        await anext(aiter(running))
        await one.servicer.sessions.stop(0)
        for _ in range(2):
            assert (await ask(session)).text == "one two three four five"
    assert one.rpcs.pop("Session") == 1
    assert sum(one.rpcs.values()) == 2
    assert len(one.engine.seen) == 3


async def test_while_sessions_break_one_after_the_other_calls_of_their_own_are_made(rig: Make) -> None:
    one = await rig()
    one.servicer.breaks = grpc.StatusCode.INTERNAL
    async with one.client.session() as session:
        with pytest.raises(errors.TargetDown, match="no sessions today"):
            await asked(session)
        assert (await asked(session)).text == "one two three four five"
        one.servicer.breaks = None

        async def in_a_session() -> bool:
            alone = one.rpcs["Generate"]
            await asked(session)
            return one.rpcs["Generate"] == alone

        async with asyncio.timeout(10):
            while not await in_a_session():
                pass
    assert one.rpcs["Session"] == 2


@both_ways
@pytest.mark.parametrize(
    ("key", "error"), [("nobody", errors.KeyUnknown), ("looker", errors.ScopeMissing)], ids=["unknown", "scope"]
)
async def test_a_session_that_is_refused_tells_each_generation_why(
    rig: Make, ask: Ask, key: str, error: type[errors.SpillwayError], tmp_path: Path
) -> None:
    entry = {"name": "looker", "sha256": hash_key("looker"), "tenant": "acme", "scopes": ["admin"]}
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [entry]}))
    one = await rig(key=key, keys_file=tmp_path / "keys.yaml")
    async with one.client.session() as session:
        ends = await asyncio.gather(*(ask(session) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [error] * 3
    assert len({id(end) for end in ends}) == 3
    assert not one.engine.seen


# Ends.


@both_ways
async def test_the_end_of_a_sessions_block_ends_what_runs_in_it_and_nothing_else(rig: Make, ask: Ask) -> None:
    one = await rig(FakeEngine(faults=Script(Stall(1), Stall(1), Stall(1))))
    async with one.client.stream("Hi") as outside:
        await anext(aiter(outside))
        async with one.client.session() as session:
            large = asyncio.create_task(ask(session, "x" * MAX_START_BYTES))
            small = asyncio.create_task(ask(session))
            await until(lambda: one.engine.running == 3)
        ends = await asyncio.gather(large, small, return_exceptions=True)
        assert [type(end) for end in ends] == [errors.TargetDown] * 2
        await until(lambda: one.engine.running == 1)
        assert (await ask(one.client)).text == "one two three four five"


@both_ways
async def test_the_deadline_is_the_callers_in_a_session_too(rig: Make, ask: Ask) -> None:
    one = await rig(FakeEngine(faults=Script(Silence())))
    async with one.client.session() as session:
        with pytest.raises(errors.DeadlineExceeded, match="no answer from"):
            await ask(session, deadline_s=0.2)
        await until(lambda: one.engine.running == 0)
        assert (await ask(session)).text == "one two three four five"
    assert one.rpcs == {"Session": 1}


@both_ways
@pytest.mark.parametrize("deadline_s", [1e8, math.inf])
async def test_no_deadline_is_too_far_away_for_a_session(rig: Make, ask: Ask, deadline_s: float) -> None:
    one = await rig()
    assert (await ask(one.client, deadline_s=deadline_s)).text == "one two three four five"
    async with one.client.session() as session:
        assert (await ask(session, deadline_s=deadline_s)).text == "one two three four five"
    assert one.rpcs["Session"] == 1


@both_ways
async def test_a_cancelled_generation_ends_on_the_server_and_no_other_does(rig: Make, ask: Ask) -> None:
    one = await rig(FakeEngine(faults=Script(Stall(1), Stall(1))))
    async with one.client.session() as session, session.stream("Hi") as stays:
        await anext(aiter(stays))
        task = asyncio.create_task(ask(session))
        await until(lambda: one.engine.running == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: one.engine.cancelled == 1)
        assert one.engine.running == 1


async def test_leaving_a_stream_early_ends_it_on_the_server_and_no_other(rig: Make) -> None:
    one = await rig(FakeEngine(answer=lambda spec: ENDLESS, interval_s=0.001))
    async with one.client.session() as session, session.stream("Hi") as stays:
        async with session.stream("Hi") as goes:
            async for _ in goes:
                break
        await until(lambda: one.engine.cancelled == 1)
        assert await anext(aiter(stays))
        assert one.engine.running == 1


async def test_an_answer_waits_for_a_reader_who_comes_late_as_it_does_outside(rig: Make) -> None:
    one = await rig(FakeEngine(answer=lambda spec: "word " * 500))
    async with one.client.session() as session, session.stream("Hi") as late:
        await until(lambda: one.engine.finished == 1)
        assert (await read(session)).text == "word " * 500
        assert "".join([text async for text in late]) == "word " * 500


async def test_a_reader_who_takes_nothing_of_an_endless_answer_is_cut_alone(rig: Make) -> None:
    one = await rig(FakeEngine(answer=lambda spec: ENDLESS, interval_s=0.0005), write_stall_s=1.0)
    async with one.client.session() as session, session.stream("Hi") as stalled:
        async with session.stream("Hi") as quick:
            texts = aiter(quick)
            while not one.engine.cancelled + one.engine.failed:
                await anext(texts)
        with pytest.raises(errors.StreamInterrupted, match="took nothing"):
            async for _ in stalled:
                pass
    assert len(stalled.text) < len(ENDLESS) / 10


# Peers that go and come back.


async def test_a_peer_that_restarts_is_used_again_in_a_session(unused_tcp_port: int) -> None:
    settings = LOOPBACK.model_copy(update={"listen": f"127.0.0.1:{unused_tcp_port}"})
    engine = FakeEngine()

    async with connect(f"127.0.0.1:{unused_tcp_port}") as client, client.session() as session:
        before, service = counted(engine, settings)
        async with serving(service, settings=settings):
            await asked(session)
        with pytest.raises(errors.TargetDown):
            await asked(session)
        after, service = counted(engine, settings)
        async with serving(service, settings=settings), asyncio.timeout(20):
            while "Session" not in after.rpcs:
                await asyncio.gather(asked(session), return_exceptions=True)
            assert (await asked(session)).text == "one two three four five"
    assert before.rpcs["Session"] == after.rpcs["Session"] == 1


# Spans.


@both_ways
async def test_the_trace_of_a_request_looks_the_same_in_a_session_and_outside(rig: Make, ask: Ask) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("client", exporter=exporter)
    one = await rig(tracing=tracing)
    await ask(one.client, request_id="r-1")
    async with one.client.session() as session:
        await ask(session, request_id="r-1")
        one.engine.faults = Script(Refuse(errors.TargetBusy("busy")))
        with pytest.raises(errors.TargetBusy):
            await ask(session)
    tracing.close()
    rpc, root, rpc_inside, root_inside, failed, failed_root = exporter.get_finished_spans()
    assert (rpc_inside.name, rpc_inside.kind, rpc_inside.attributes) == (rpc.name, rpc.kind, rpc.attributes)
    assert (root_inside.name, root_inside.attributes) == (root.name, root.attributes)
    assert root.name == names.CLIENT_REQUEST
    assert rpc_inside.parent is not None
    assert root_inside.context is not None
    assert rpc_inside.parent.span_id == root_inside.context.span_id
    assert failed.attributes is not None
    assert failed.attributes[names.ERROR_TYPE] == "TARGET_BUSY"
    assert not failed_root.status.is_ok
