"""A session is another way for the same generations: whatever happens to one of them happens to it alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from spillway import errors, v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call, Caller
from spillway.rpc.keys import hash_key
from spillway.rpc.lane import Lane
from spillway.rpc.methods import SESSION
from spillway.rpc.server import Server, Service
from spillway.session.backoff import FIRST_S
from spillway.session.client import WINDOW, Session
from spillway.session.link import SessionUnsupported
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.testing.clock import HandClock
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.faults import Refuse, Script, Silence, Stall
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc
from tests.unit.spillway.conftest import INFERENCE, Relay

ENDLESS = "word " * 100_000
SPEC = v1.GenerationSpec(text=v1.TextPrompt(text="hello"))


def settings(**more: Any) -> ServerSettings:
    return LOOPBACK.model_copy(update=more)


class Rig:
    """One server and one session with it."""

    def __init__(self, mesh: Any, server: Server, session: Session, engine: FakeEngine) -> None:
        self.mesh, self.server, self.session, self.engine = mesh, server, session, engine

    def ask(self, call: Call, text: str = "hello") -> Any:
        chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])])
        request = v1.StreamGenerateRequest(spec=v1.GenerationSpec(chat=chat))
        return self.session.stream(request, call, span_name="test")

    async def events(self, call: Call) -> list[v1.GenerationEvent]:
        async with self.ask(call) as responses:
            return [response.event async for response in responses]


@pytest.fixture
async def rig(mesh: Any) -> AsyncIterator[Any]:
    opened: list[Session] = []

    async def make(
        engine: FakeEngine | None = None, *, key: str | None = None, tracing: Any = None, **more: Any
    ) -> Rig:
        engine = engine or FakeEngine()
        told = settings(**more)
        server = await mesh.serve(*services(engine, settings=told, tracing=tracing), settings=told, tracing=tracing)
        session = Session(mesh.client(server, key=key).remote)
        opened.append(session)
        return Rig(mesh, server, session, engine)

    yield make
    for session in opened:
        await session.close()


def texts(events: list[v1.GenerationEvent]) -> str:
    return "".join(event.delta.text for event in events)


async def test_a_generation_that_is_over_needs_no_garbage_collector(rig: Any, call: Any) -> None:
    one = await rig()
    gc.collect()
    gc.disable()
    try:
        async with one.ask(call()) as generation:
            over = weakref.ref(generation)
            async for _ in generation:
                pass
        del generation
        await one.events(call())  # who reads frames still had it in hand
        assert over() is None
    finally:
        gc.enable()


async def test_each_of_many_generations_has_its_own_answer_whole_and_in_order(rig: Any, call: Any) -> None:
    one = await rig(FakeEngine(answer=lambda spec: spec.chat.messages[0].parts[0].text * 50, interval_s=0.0001))

    async def ask(number: int) -> list[v1.GenerationEvent]:
        async with one.ask(call(30), f"word{number} ") as responses:
            return [response.event async for response in responses]

    answers = await asyncio.gather(*(ask(number) for number in range(50)))

    for number, events in enumerate(answers):
        assert [event.sequence for event in events] == list(range(len(events)))
        assert texts(events) == f"word{number} " * 50
        assert events[-1].HasField("usage")
    assert one.engine.running == 0


async def test_generations_of_one_client_share_an_rpc_and_events_of_one_step_a_frame(mesh: Any) -> None:
    server = await mesh.serve(*services(FakeEngine()))
    method = mesh.client(server).remote.channel.stream_stream(
        SESSION,
        request_serializer=v1.SessionRequest.SerializeToString,
        response_deserializer=v1.SessionResponse.FromString,
    )
    rpc = method()
    start = v1.StreamGenerateRequest(spec=v1.GenerationSpec(text=v1.TextPrompt(text="hello")))
    await rpc.write(v1.SessionRequest(starts=[v1.SessionStart(id=n, request=start, credit=99) for n in range(1, 33)]))
    await rpc.done_writing()

    frames = [frame async for frame in rpc]

    ended = [told for frame in frames for told in frame.ended]
    assert sorted(told.id for told in ended) == list(range(1, 33))
    assert not any(told.status for told in ended)
    tokens = [pair for frame in frames for pair in zip(frame.events, frame.tokens, strict=True)]
    assert {count for event, count in tokens if event.HasField("delta")} == {1}
    assert {count for event, count in tokens if not event.HasField("delta")} == {0}
    assert len(tokens) == 32 * 8
    assert len(frames) < len(tokens) / 8


async def test_deltas_that_nobody_waits_for_to_read_are_not_taken_past_their_reader(rig: Any, call: Any) -> None:
    answer = " ".join(map(str, range(200)))
    one = await rig(FakeEngine(answer=lambda spec: answer, interval_s=0.0005))
    told: list[str] = []
    lane = Lane(lambda event, tokens: told.append(v1.GenerationEvent.FromString(event).delta.text))
    lane.open = True
    request = v1.StreamGenerateRequest(spec=v1.GenerationSpec(text=v1.TextPrompt(text="count")))
    async with one.session.stream(request, call(30), span_name="test", lane=lane) as responses:
        async for response in responses:
            told.append(response.event.delta.text)
            lane.credit = len(told) % 3
            await asyncio.sleep(0)

    assert lane.passed
    assert "".join(told) == answer


async def test_a_whole_answer_comes_with_the_end_of_its_generation(rig: Any, mesh: Any) -> None:
    one = await rig()
    rpc = mesh.client(one.server).remote.channel.stream_stream(
        SESSION,
        request_serializer=v1.SessionRequest.SerializeToString,
        response_deserializer=v1.SessionResponse.FromString,
    )()
    starts = [v1.SessionStart(id=number, generate=v1.GenerateRequest(spec=SPEC)) for number in (1, 2)]
    await rpc.write(v1.SessionRequest(starts=starts))
    await rpc.done_writing()

    frames = [frame async for frame in rpc]
    ended = [told for frame in frames for told in frame.ended]

    assert not any(frame.events for frame in frames)
    assert [told.id for told in ended] == [1, 2]
    assert {told.answer.choices[0].content.text for told in ended} == {"one two three four five"}


async def test_many_large_requests_at_once_go_in_frames_that_the_server_takes(rig: Any, call: Any) -> None:
    one = await rig(max_receive_bytes=2**21)

    async def ask() -> str:
        async with one.ask(call(30), "x" * 200_000) as responses:
            return texts([response.event async for response in responses])

    assert await asyncio.gather(*(ask() for _ in range(20))) == ["one two three four five"] * 20


async def test_leaving_one_generation_ends_it_at_the_engine_and_no_other(rig: Any, call: Any, until: Any) -> None:
    one = await rig(FakeEngine(answer=lambda spec: ENDLESS, interval_s=0.001))
    async with one.ask(call(30)) as stays:
        async with one.ask(call(30)) as goes:
            await anext(goes)
            await anext(stays)
            assert one.engine.running == 2
        await until(lambda: one.engine.running == 1)

        assert (await anext(stays)).event.HasField("delta")


async def test_a_generation_that_is_left_before_it_began_is_not_heard_of_again(rig: Any, call: Any, until: Any) -> None:
    one = await rig()
    await one.events(call())
    async with one.ask(call()):
        pass

    assert texts(await one.events(call())) == "one two three four five"
    await until(lambda: one.engine.running == 0)
    assert "0 generations" in repr(one.session)


async def test_a_slow_reader_holds_up_no_other_and_bounds_what_waits_for_it(rig: Any, call: Any, until: Any) -> None:
    one = await rig(FakeEngine(answer=lambda spec: ENDLESS))
    async with one.ask(call(30)) as slow:
        await anext(slow)
        async with one.ask(call(30)) as quick:
            for _ in range(10 * WINDOW):
                await anext(quick)

        assert len(slow._waiting) < WINDOW


async def test_a_reader_that_takes_nothing_is_cut_after_the_stall_time_alone(rig: Any, call: Any) -> None:
    one = await rig(FakeEngine(answer=lambda spec: ENDLESS, interval_s=0.0001), write_stall_s=0.1)
    async with one.ask(call(30)) as stalled, one.ask(call(30)) as quick:
        while one.engine.running == 2 or not one.engine.finished:
            if one.engine.running == 1:
                break
            await anext(quick)
        with pytest.raises(errors.StreamInterrupted, match="took nothing"):
            async for _ in stalled:
                pass
        await anext(quick)


async def test_a_deadline_ends_its_own_generation_alone(rig: Any, call: Any) -> None:
    one = await rig(FakeEngine(answer=lambda spec: ENDLESS, interval_s=0.001))
    async with one.ask(call(30)) as long:
        await anext(long)
        with pytest.raises(errors.DeadlineExceeded):
            await one.events(call(0.1))
        await anext(long)


async def test_a_server_holds_to_a_deadline_that_its_client_forgot(rig: Any, mesh: Any, until: Any) -> None:
    one = await rig(FakeEngine(faults=Script(Silence())), default_deadline_s=0.1)
    rpc = mesh.client(one.server).remote.channel.stream_stream(
        SESSION,
        request_serializer=v1.SessionRequest.SerializeToString,
        response_deserializer=v1.SessionResponse.FromString,
    )()
    start = v1.StreamGenerateRequest(spec=v1.GenerationSpec(text=v1.TextPrompt(text="hello")))
    await rpc.write(v1.SessionRequest(starts=[v1.SessionStart(id=1, request=start)]))

    frame = await rpc.read()

    assert b"EXPIRED" in frame.ended[0].status
    rpc.cancel()


@pytest.mark.parametrize(
    "error",
    [
        errors.TargetBusy("busy", retry_after_s=1.5),
        errors.RequestInvalid.at("spec.sampling", "is odd"),
        errors.ContextLengthExceeded("too long", metadata={"tokens": "9"}),
    ],
    ids=repr,
)
async def test_an_error_says_in_a_session_what_it_says_outside(
    rig: Any, mesh: Any, call: Any, spec: Any, error: errors.SpillwayError
) -> None:
    one = await rig(FakeEngine(faults=Script(Refuse(error), Refuse(error))))

    with pytest.raises(type(error)) as inside:
        await one.events(call())
    with pytest.raises(type(error)) as outside:
        await mesh.client(one.server).events(spec(), call())

    assert repr(inside.value) == repr(outside.value)
    assert inside.value.fields == outside.value.fields
    assert inside.value.retry_after_s == outside.value.retry_after_s
    assert inside.value.metadata == outside.value.metadata


async def test_what_nobody_expected_ends_one_generation_as_internal_and_tells_nothing(
    rig: Any, call: Any, logged: Any
) -> None:
    one = await rig(FakeEngine(faults=Script(Refuse(RuntimeError("secret")))))  # type: ignore[arg-type]

    with pytest.raises(errors.Internal) as told:
        await one.events(call())

    assert "secret" not in str(told.value)
    assert [event["event"] for event in logged if event["log_level"] == "error"] == ["rpc.crashed"]
    assert texts(await one.events(call()))


async def test_a_session_that_breaks_fails_what_runs_in_it_and_the_next_opens_another(
    rig: Any, call: Any, until: Any
) -> None:
    one = await rig(FakeEngine(faults=Script(Stall(2), Stall(2))))

    async def ask() -> None:
        await one.events(call(30))

    asked = [asyncio.create_task(ask()) for _ in range(2)]
    await until(lambda: one.engine.running == 2)
    (link,) = one.session._links
    link._rpc.cancel()
    ends = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(end) for end in ends] == [errors.TargetDown] * 2
    assert ends[0] is not ends[1]
    assert texts(await one.events(call()))
    assert link not in one.session._links


async def test_a_number_given_twice_ends_the_session_and_says_so(rig: Any, mesh: Any) -> None:
    one = await rig()
    rpc = mesh.client(one.server).remote.channel.stream_stream(
        SESSION,
        request_serializer=v1.SessionRequest.SerializeToString,
        response_deserializer=v1.SessionResponse.FromString,
    )()
    start = v1.SessionStart(id=7, request=v1.StreamGenerateRequest(), credit=1)
    await rpc.write(v1.SessionRequest(starts=[start, start]))

    with pytest.raises(grpc.aio.AioRpcError, match=r"starts\.id"):
        async for _ in rpc:
            pass
    assert rpc.done()


async def test_a_server_that_stops_lets_running_generations_end_and_takes_no_new_ones(
    rig: Any, call: Any, until: Any
) -> None:
    words = "word " * 100
    one = await rig(FakeEngine(answer=lambda spec: words, interval_s=0.005), drain_s=10)
    async with one.ask(call(30)) as running:
        events = [(await anext(running)).event]
        stopping = asyncio.create_task(one.server.drain())
        await until(lambda: one.server.draining)
        await asyncio.sleep(0.05)  # gRPC has refused new calls by now, too

        with pytest.raises(errors.SpillwayError) as refused:
            await one.events(call())
        events += [response.event async for response in running]
    await stopping

    assert isinstance(refused.value, errors.TargetUnavailable)
    assert texts(events) == words


async def test_while_sessions_break_on_a_sound_connection_the_next_waits_for_the_backoff(mesh: Any, call: Any) -> None:
    class Broken(inference_pb2_grpc.InferenceServiceServicer):
        async def Session(self, requests: Any, context: Any) -> Any:
            async for _ in requests:  # what is not sent yet when a session breaks counts as refused
                await context.abort(grpc.StatusCode.INTERNAL, "broken")
            yield

    add = inference_pb2_grpc.add_InferenceServiceServicer_to_server
    server = await mesh.serve(Service(INFERENCE, Broken(), add))  # type: ignore[abstract]  # what it lacks is not asked
    clock = HandClock()
    session = Session(mesh.client(server).remote, clock=clock, chance=lambda: 1.0)
    request = v1.StreamGenerateRequest(spec=SPEC)

    for failures in range(1, 4):
        assert session.takes(request)
        with pytest.raises(errors.TargetDown):
            async with session.stream(request, call(), span_name="test") as responses:
                await anext(responses)
        clock.advance(FIRST_S * 2 ** (failures - 1) - 0.01)
        assert not session.takes(request)
        clock.advance(0.01)
    await session.close()


async def test_a_connection_that_is_lost_is_grpcs_to_find_again(mesh: Any, call: Any) -> None:
    session = Session(mesh.client("127.0.0.1:1").remote)
    request = v1.StreamGenerateRequest(spec=SPEC)
    for _ in range(3):
        assert session.takes(request)
        with pytest.raises(errors.TargetDown):
            async with session.stream(request, call(), span_name="test") as responses:
                await anext(responses)
    await session.close()


async def test_a_server_without_sessions_is_found_out_before_anything_happened(mesh: Any, call: Any) -> None:
    engine = FakeEngine()
    relay = Relay(mesh.client(await mesh.serve(*services(engine))))  # type: ignore[abstract]
    server = await mesh.serve(Service(INFERENCE, relay, inference_pb2_grpc.add_InferenceServiceServicer_to_server))
    session = Session(mesh.client(server).remote)

    with pytest.raises(SessionUnsupported):
        async with session.stream(v1.StreamGenerateRequest(), call(), span_name="test") as responses:
            await anext(responses)
    assert not engine.seen
    await session.close()


@pytest.mark.parametrize("window", [1, 2, 3, 5])
async def test_a_stream_ends_whole_however_little_of_it_may_wait(rig: Any, mesh: Any, call: Any, window: int) -> None:
    one = await rig(FakeEngine(answer=lambda spec: "word " * 20))
    session = Session(mesh.client(one.server).remote, window=window)
    async with session.stream(v1.StreamGenerateRequest(spec=SPEC), call(5), span_name="test") as responses:
        assert texts([response.event async for response in responses]) == "word " * 20
    await session.close()


async def test_a_generation_that_cannot_be_told_is_none(rig: Any, call: Any) -> None:
    one = await rig()
    with pytest.raises(ValueError, match="surrogate"):
        await one.events(Call("\ud800", Deadline.after(5)))
    assert texts(await one.events(call()))
    assert [link.running for link in one.session._links] == [0]


# What travels with a generation.


async def test_request_id_tenant_hop_and_time_travel_with_each_generation(rig: Any) -> None:
    one = await rig()
    call = Call(
        "mine", Deadline.after(20), caller=Caller("acme"), hop=2, attempts_left=3, first_token=Deadline.after(5)
    )

    await one.events(call)

    seen = one.engine.seen[-1].call
    assert (seen.request_id, seen.caller.tenant, seen.hop, seen.attempts_left) == ("mine", "acme", 2, 3)
    assert 15 < seen.deadline.left() <= 20
    assert seen.first_token is not None
    assert seen.first_token.left() <= 5


async def test_too_many_hops_end_one_generation_alone(rig: Any, call: Any) -> None:
    one = await rig()

    with pytest.raises(errors.RequestInvalid, match="loop"):
        await one.events(Call("loop", Deadline.after(5), hop=5))
    assert texts(await one.events(call()))


async def test_one_trace_runs_through_the_session_for_each_generation(rig: Any, call: Any, spans: Any) -> None:
    client, server = spans.tracing("client"), spans.tracing("server")
    one = await rig(tracing=server)
    session = Session(one.mesh.client(one.server, tracing=client).remote)
    one.session = session

    await one.events(call())
    await one.events(call())
    await session.close()
    await one.server.close()  # its own spans have ended with it

    told = await spans.of("server", count=2)
    assert {span.name for span in told} == {"spillway.v1.InferenceService/StreamGenerate"}, "none of the session"
    asked = await spans.of("client", count=2)
    assert [span.parent.span_id for span in told] == [span.context.span_id for span in asked]
    assert {span.attributes[names.REQUEST_ID] for span in told} == {"request-1"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    keys = [
        {"name": "shop", "sha256": hash_key("shop-key"), "tenant": "acme", "scopes": ["generate"]},
        {"name": "router", "sha256": hash_key("router-key"), "tenant": "mesh", "scopes": ["generate", "route"]},
    ]
    path.write_text(yaml.safe_dump({"keys": keys}))
    return path


@pytest.mark.parametrize(("key", "tenant"), [("shop-key", "acme"), ("router-key", "other")])
async def test_only_a_router_speaks_for_other_tenants(rig: Any, keys_file: Path, key: str, tenant: str) -> None:
    one = await rig(key=key, keys_file=keys_file)

    await one.events(Call("mine", Deadline.after(5), caller=Caller("other")))

    assert one.engine.seen[-1].call.caller.tenant == tenant


async def test_a_session_without_a_known_key_is_refused(rig: Any, call: Any, keys_file: Path) -> None:
    one = await rig(key="nobody", keys_file=keys_file)

    with pytest.raises(errors.KeyUnknown):
        await one.events(call())
    assert not one.engine.seen
