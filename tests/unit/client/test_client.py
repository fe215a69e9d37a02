from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import spillway.client
from spillway import v1
from spillway.client import Client, connect
from spillway.errors import (
    DeadlineExceeded,
    OutputInvalid,
    ProviderRateLimited,
    RequestInvalid,
    StreamInterrupted,
    TargetDown,
)
from spillway.rpc.server import Server, Service
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script, Silence, Stall
from spillway.testing.server import serving
from spillway.v1 import inference_pb2_grpc, router_pb2_grpc


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[Client]:
    async with serving_engine(engine) as server, connect(server.address) as client:
        yield client


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def test_generate_returns_the_whole_answer(client: Client) -> None:
    answer = await client.generate("Hi", request_id="r-1")
    assert answer.text == "one two three four five"
    assert (answer.model, answer.target, answer.finish, answer.request_id) == ("fake", "fake", "stop", "r-1")
    assert answer.usage.completion_tokens == 5
    assert answer.cost_usd is None
    assert answer.verdict is None
    assert repr(answer) == "<Answer r-1 from fake stop>"


async def test_the_json_of_an_answer_is_what_the_validator_accepted(client: Client, engine: FakeEngine) -> None:
    engine.answer = lambda spec: 'Here it is: {"a": 1}'
    answer = await client.generate("Hi")
    with pytest.raises(OutputInvalid):
        answer.json()
    answer.message.usage.verdict.accepted_json = '{"a": 1}'
    assert answer.json() == {"a": 1}


async def test_a_stream_yields_text_and_then_knows_all_of_the_answer(client: Client) -> None:
    async with client.stream("Hi") as answer:
        assert answer.started is None
        deltas = [text async for text in answer]
    assert deltas == ["one", " two", " three", " four", " five"]
    assert answer.text == answer.answer.text == "one two three four five"
    assert (answer.target, answer.finish, answer.usage.completion_tokens) == ("fake", "stop", 5)


async def test_the_example_of_the_package_runs(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    example = "\n".join(line[4:] for line in (spillway.client.__doc__ or "").splitlines() if line.startswith("    "))
    async with serving_engine(engine) as server:
        code = compile(example.replace("127.0.0.1:7070", server.address), "spillway.client", "exec")
        capsys.readouterr()
        await asyncio.to_thread(exec, code, {})
        assert capsys.readouterr().out == "one two three four five\nfake answered with 5 tokens\n"


async def test_events_show_everything(client: Client) -> None:
    async with client.stream("Hi", max_tokens=2) as answer:
        kinds = [event.WhichOneof("event") async for event in answer.events()]
    assert kinds == ["started", "delta", "delta", "finished", "usage"]
    assert answer.finish == "length"


async def test_leaving_a_stream_ends_it_on_the_server(client: Client, engine: FakeEngine) -> None:
    engine.interval_s = 0.05
    async with client.stream("Hi") as answer:
        async for _ in answer:
            break
    await until(lambda: engine.running == 0)
    assert engine.cancelled == 1
    with pytest.raises(StreamInterrupted):
        _ = answer.answer


async def test_a_cancelled_generate_ends_on_the_server(client: Client, engine: FakeEngine) -> None:
    engine.interval_s = 5
    task = asyncio.create_task(client.generate("Hi"))
    await until(lambda: engine.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: engine.running == 0)


async def test_a_cut_stream_is_an_error_after_the_text_that_came(client: Client, engine: FakeEngine) -> None:
    engine.faults = Script(Cut(after=2))
    with pytest.raises(TargetDown):
        async with client.stream("Hi") as answer:
            async for _ in answer:
                pass
    assert answer.text == "one two"


async def test_errors_keep_their_advice(client: Client, engine: FakeEngine) -> None:
    engine.faults = Script(Refuse(ProviderRateLimited("too many", retry_after_s=2.5)))
    with pytest.raises(ProviderRateLimited) as caught:
        await client.generate("Hi")
    assert (caught.value.retry_after_s, caught.value.elsewhere) == (2.5, True)


async def test_a_server_names_the_field_that_is_wrong(client: Client) -> None:
    with pytest.raises(RequestInvalid) as caught:
        await client.generate("Hi", max_tokens=-1)
    assert caught.value.fields[0].field == "spec.sampling.max_tokens"


async def test_the_deadline_is_the_callers(client: Client, engine: FakeEngine) -> None:
    engine.faults = Script(always=Silence())
    with pytest.raises(DeadlineExceeded):
        await client.generate("Hi", deadline_s=0.2)
    with pytest.raises(DeadlineExceeded):
        async with client.stream("Hi", deadline_s=0.2) as answer:
            async for _ in answer:
                pass


async def test_models_and_tokens(client: Client) -> None:
    assert [model.name for model in await client.models()] == ["fake"]
    counted = await client.count_tokens("one two three")
    assert (counted.tokens, counted.exact) == (3, True)


async def test_nobody_there_is_target_down() -> None:
    async with connect("127.0.0.1:1") as client:
        with pytest.raises(TargetDown):
            await client.generate("Hi", deadline_s=5)


async def test_a_request_is_one_trace_under_the_clients_root(engine: FakeEngine) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("client", exporter=exporter)
    async with serving_engine(engine) as server, connect(server.address, tracing=tracing) as client:
        async with client.stream("Hi", request_id="r-1") as answer:
            async for _ in answer:
                pass
        with pytest.raises(RequestInvalid):
            await client.generate("")
    tracing.close()
    rpc, root, failed_rpc, failed_root = exporter.get_finished_spans()
    assert (root.name, root.parent) == (names.CLIENT_REQUEST, None)
    assert rpc.parent is not None
    assert root.context is not None
    assert rpc.parent.span_id == root.context.span_id
    assert root.attributes == {
        names.REQUEST_ID: "r-1",
        names.TARGET: "fake",
        names.ANSWERED_BY: "fake",
        names.INPUT_TOKENS: 1,
        names.OUTPUT_TOKENS: 5,
    }
    assert not failed_root.status.is_ok
    assert not failed_rpc.status.is_ok


class Scripted(inference_pb2_grpc.InferenceServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """Sends the events it is given, whatever they are. What it lacks is UNIMPLEMENTED, as gRPC has it."""

    def __init__(self, *events: v1.GenerationEvent) -> None:
        self.events = events

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        for event in self.events:
            yield v1.StreamGenerateResponse(event=event)

    async def ExplainRoute(self, request: v1.ExplainRouteRequest, context: Any) -> v1.ExplainRouteResponse:
        return v1.ExplainRouteResponse(plan=v1.Plan(reason=f"{v1.Category.Name(request.policy.category)}"))


async def scripted(*events: v1.GenerationEvent) -> AsyncIterator[Server]:
    servicer = Scripted(*events)  # type: ignore[abstract]  # see its docstring
    async with serving(
        Service("spillway.v1.InferenceService", servicer, inference_pb2_grpc.add_InferenceServiceServicer_to_server),
        Service("spillway.v1.RouterService", servicer, router_pb2_grpc.add_RouterServiceServicer_to_server),
    ) as server:
        yield server


STARTED = v1.GenerationEvent(sequence=0, started=v1.Started(target="a"))


def delta(sequence: int, text: str) -> v1.GenerationEvent:
    return v1.GenerationEvent(sequence=sequence, delta=v1.Delta(text=text))


def finished(sequence: int) -> v1.GenerationEvent:
    choice = v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)
    return v1.GenerationEvent(sequence=sequence, finished=v1.Finished(choices=[choice]))


def usage(sequence: int) -> v1.GenerationEvent:
    return v1.GenerationEvent(sequence=sequence, usage=v1.Usage(completion_tokens=1))


@pytest.mark.parametrize(
    "events",
    [
        [STARTED, delta(1, "x")],
        [STARTED, delta(1, "x"), finished(2)],
        [STARTED, delta(1, "x"), usage(2)],
        [STARTED, delta(2, "x"), finished(3), usage(4)],
        [STARTED, delta(1, "x"), finished(2), usage(3), delta(4, "y")],
    ],
    ids=["no end", "no usage", "no finished", "gap", "more after the end"],
)
async def test_a_truncated_answer_is_never_reported_as_success(events: list[v1.GenerationEvent]) -> None:
    async for server in scripted(*events):
        async with connect(server.address) as client:
            with pytest.raises(StreamInterrupted):
                async with client.stream("Hi") as answer:
                    async for _ in answer:
                        pass


async def test_a_restarted_answer_begins_anew() -> None:
    changed = v1.GenerationEvent(
        sequence=2, route_changed=v1.RouteChanged(from_target="a", to_target="b", restarted=True)
    )
    again = v1.GenerationEvent(sequence=3, started=v1.Started(target="b"))
    events = [STARTED, delta(1, "lost"), changed, again, delta(4, "kept"), finished(5), usage(6)]
    async for server in scripted(*events):
        async with connect(server.address) as client, client.stream("Hi", accepts_restart=True) as answer:
            async for _ in answer:
                pass
    assert (answer.text, answer.target, answer.restarts) == ("kept", "b", 1)


async def test_explain_returns_the_routers_plan() -> None:
    async for server in scripted():
        async with connect(server.address) as client:
            plan = await client.explain("Hi", category="complex")
    assert plan.reason == "CATEGORY_COMPLEX"


ROWS = {"properties": {"total": {}, "rows": {"type": "array"}}}


async def test_the_records_of_a_stream_come_as_values(client: Client, engine: FakeEngine) -> None:
    engine.answer = lambda spec: '{"total": 3, "rows": [{"a": [1]}, {"a": [2, {}]}, {"a": "]"}], "more": [7]}'
    async with client.stream("Hi", json_schema=ROWS, records=True) as stream:
        assert [record async for record in stream.records()] == [{"a": [1]}, {"a": [2, {}]}, {"a": "]"}]
        assert stream.finish == "stop"
    asked = engine.seen[0].request
    assert isinstance(asked, v1.StreamGenerateRequest)
    assert asked.policy.delivery == v1.Delivery(records=True)


async def test_a_record_comes_before_the_answer_has_ended(client: Client, engine: FakeEngine) -> None:
    engine.answer, engine.faults = lambda spec: '[{"a": 1}, {"a": 2}]', Script(Stall(2))
    async with client.stream("Hi", json_schema={"type": "array"}) as stream:
        records = stream.records()
        assert await anext(records) == {"a": 1}
        assert stream.finish == ""
    await until(lambda: engine.cancelled == 1)


@pytest.mark.parametrize("options", [{}, {"json_object": True}, {"json_schema": {"type": "object"}}])
async def test_without_an_array_in_the_schema_there_are_no_records(client: Client, options: Any) -> None:
    async with client.stream("Hi", **options) as stream:
        with pytest.raises(RequestInvalid, match="json_schema"):
            await anext(stream.records())


@pytest.mark.parametrize("said", ["It is [1, 2]", "[1, 2", '{"rows": [1]}', "]"])
async def test_records_of_what_is_not_their_json_end_with_an_error(
    client: Client, engine: FakeEngine, said: str
) -> None:
    engine.answer = lambda spec: said
    async with client.stream("Hi", json_schema={"type": "array"}) as stream:
        with pytest.raises(OutputInvalid):
            [record async for record in stream.records()]
