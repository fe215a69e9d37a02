from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode as SpanStatus
from structlog.typing import EventDict

from spillway import errors, v1
from spillway.errors import SpillwayError
from spillway.rpc import metadata
from spillway.rpc.call import Call, current_call
from spillway.rpc.keys import GENERATE, ROUTE, hash_key
from spillway.rpc.server import Service
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.faults import Refuse, Script, Silence, Stall
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc

INFERENCE = "spillway.v1.InferenceService"


def settings(**changes: Any) -> ServerSettings:
    return LOOPBACK.model_copy(update=changes)


async def test_what_is_left_of_the_deadline_travels_with_each_hop(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    relay = await mesh.relay(await mesh.serve(*services(engine)))

    for seconds in (5.0, 60.0):
        asked = call(seconds)
        await mesh.client(relay).generate(spec(), asked)

        # Time in transit is given back at each hop: gRPC sends what is left, not a moment.
        assert abs(engine.seen[-1].deadline.left() - asked.deadline.left()) < 3.0


async def test_a_caller_without_a_deadline_gets_the_default_and_the_call_ends_with_it(
    mesh: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    server = await mesh.serve(*services(engine), settings=settings(default_deadline_s=0.05))
    stub = mesh.client(server).stub

    with pytest.raises(AioRpcError) as unary:
        await stub.Generate(v1.GenerateRequest(spec=spec()))
    with pytest.raises(AioRpcError) as stream:
        await stub.StreamGenerate(v1.StreamGenerateRequest(spec=spec())).read()

    for raised in (unary, stream):
        assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert type(errors_of(raised.value)) is errors.DeadlineExceeded
        assert "default deadline" in str(raised.value.details())
    await until(lambda: engine.running == 0)


async def test_the_callers_own_deadline_stops_the_handler(mesh: Any, call: Any, spec: Any, until: Any) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    client = mesh.client(await mesh.serve(*services(engine)))

    with pytest.raises(errors.DeadlineExceeded):
        await client.generate(spec(), call(0.05))

    await until(lambda: (engine.running, engine.cancelled) == (0, 1))


def errors_of(error: AioRpcError) -> SpillwayError:
    from spillway.rpc.status import from_rpc_error

    return from_rpc_error(error)


async def test_an_unknown_exception_leaves_with_the_request_id_and_none_of_its_text(
    mesh: Any, call: Any, spec: Any, logged: list[EventDict]
) -> None:
    def crash(spec: v1.GenerationSpec) -> str:
        raise RuntimeError("password of the database")

    client = mesh.client(await mesh.serve(*services(FakeEngine(answer=crash))))

    for ask in (client.generate, client.events):
        with pytest.raises(errors.Internal) as raised:
            await ask(spec(), call(request_id="abc-123"))
        assert raised.value.message == "internal error; request id abc-123"
        assert "password" not in repr(vars(raised.value))

    crashes = [event for event in logged if event["event"] == "rpc.crashed"]
    assert [str(event["exc_info"]) for event in crashes] == ["password of the database"] * 2
    assert crashes[0]["method"] == f"/{INFERENCE}/Generate"


async def test_an_error_of_the_contract_crosses_two_services_unchanged(mesh: Any, call: Any, spec: Any) -> None:
    error = errors.QueueFull("full", retry_after_s=2.5, resource="engine-1", metadata={"waiting": "9"})
    engine = FakeEngine(faults=Script(always=Refuse(error)))
    client = mesh.client(await mesh.relay(await mesh.serve(*services(engine))))

    for ask in (client.generate, client.events):
        with pytest.raises(errors.QueueFull) as raised:
            await ask(spec(), call())
        assert raised.value.retry_after_s == 2.5
        assert raised.value.resource == "engine-1"
        assert raised.value.metadata == {"waiting": "9"}


async def test_the_request_id_is_the_callers_or_is_made(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    client = mesh.client(await mesh.serve(*services(engine)))

    await client.generate(spec(), call(request_id="from-metadata"))
    await client.generate(spec(request_id="from-the-spec"), call(request_id="from-metadata"))
    await client.generate(spec(), call(request_id=""))
    await client.generate(spec(request_id="x" * 500), call())

    ids = [seen.call.request_id for seen in engine.seen]
    assert ids[:2] == ["from-metadata", "from-the-spec"]
    assert len(ids[2]) == 32
    assert len(ids[3]) == 128


class Odd(inference_pb2_grpc.InferenceServiceServicer):
    """A servicer with a handler of its own for each test."""

    def __init__(self, behave: Callable[[Any], Awaitable[Any]]) -> None:
        self._behave = behave

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        await self._behave(context)
        return v1.GenerateResponse()

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        await self._behave(context)
        yield v1.StreamGenerateResponse()


def odd(behave: Callable[[Any], Awaitable[Any]]) -> Service:
    return Service(
        INFERENCE,
        Odd(behave),  # type: ignore[abstract]
        inference_pb2_grpc.add_InferenceServiceServicer_to_server,
    )


async def test_a_handler_that_is_cancelled_from_within_still_answers_its_caller(
    mesh: Any, call: Any, spec: Any
) -> None:
    async def cancel_yourself(context: Any) -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    client = mesh.client(await mesh.serve(odd(cancel_yourself)))

    for ask in (client.generate, client.events):
        with pytest.raises(errors.TargetDown, match="cancelled the call"):
            await ask(spec(), call(60))


async def test_a_handlers_own_abort_passes(mesh: Any, call: Any, spec: Any, logged: list[EventDict]) -> None:
    async def abort(context: Any) -> None:
        await context.abort(StatusCode.RESOURCE_EXHAUSTED, "no more")

    client = mesh.client(await mesh.serve(odd(abort)))

    with pytest.raises(errors.QueueFull, match="no more"):
        await client.generate(spec(), call())
    assert not [event for event in logged if event["event"] == "rpc.crashed"]


async def test_a_timeout_of_the_handlers_own_is_a_defect_and_not_the_callers_deadline(
    mesh: Any, call: Any, spec: Any, logged: list[EventDict]
) -> None:
    async def time_out(context: Any) -> None:
        raise TimeoutError("a library's")

    client = mesh.client(await mesh.serve(odd(time_out)))

    with pytest.raises(errors.Internal):
        await client.generate(spec(), call())


async def test_more_hops_than_allowed_are_taken_for_a_loop(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    client = mesh.client(await mesh.serve(*services(engine)))

    await client.generate(spec(), call(hop=metadata.MAX_HOPS))
    assert engine.seen[-1].call.hop == metadata.MAX_HOPS
    with pytest.raises(errors.RequestInvalid, match="loop"):
        await client.generate(spec(), call(hop=metadata.MAX_HOPS + 1))


@pytest.mark.parametrize("left", ["0", "-1", "one", "9" * 5000, ""])
async def test_attempts_left_that_are_no_number_are_refused(mesh: Any, spec: Any, left: str) -> None:
    stub = mesh.client(await mesh.serve(*services(FakeEngine()))).stub

    with pytest.raises(AioRpcError) as raised:
        await stub.Generate(v1.GenerateRequest(spec=spec()), metadata=((metadata.ATTEMPTS_LEFT, left),))
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("wait", ["-1", "1.5", "9" * 10, ""])
async def test_a_wait_for_a_first_token_that_is_no_number_is_refused(mesh: Any, spec: Any, wait: str) -> None:
    stub = mesh.client(await mesh.serve(*services(FakeEngine()))).stub

    with pytest.raises(AioRpcError) as raised:
        await stub.Generate(v1.GenerateRequest(spec=spec()), metadata=((metadata.FIRST_TOKEN_MS, wait),))
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("hop", ["-1", "one", "9" * 5000, ""])
async def test_hops_that_are_no_number_are_refused(mesh: Any, spec: Any, hop: str) -> None:
    stub = mesh.client(await mesh.serve(*services(FakeEngine()))).stub

    with pytest.raises(AioRpcError) as raised:
        await stub.Generate(v1.GenerateRequest(spec=spec()), metadata=((metadata.HOP, hop),))
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT


async def test_relays_that_form_a_loop_are_found_out(mesh: Any, call: Any, spec: Any, free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    back = await mesh.relay(await mesh.relay(address), settings=settings(listen=address))

    with pytest.raises(errors.RequestInvalid, match="loop"):
        await mesh.client(back).generate(spec(), call())


# Keys.


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.yaml"
    entries = [
        ("shop", "shop-key", "acme", [GENERATE]),
        ("router", "router-key", "mesh", [GENERATE, ROUTE]),
        ("watcher", "watcher-key", "ops", ["admin"]),
    ]
    lines = [
        f"- {{name: {name}, sha256: {hash_key(key)}, tenant: {tenant}, scopes: {scopes}}}"
        for name, key, tenant, scopes in entries
    ]
    file.write_text("keys:\n" + "\n".join(lines))
    return file


async def test_no_key_is_asked_for_until_keys_are_configured(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    client = mesh.client(await mesh.serve(*services(engine)))

    await client.generate(spec(), call())

    assert engine.seen[-1].call.caller.tenant == "anonymous"


@pytest.mark.parametrize("key", [None, "wrong", "shop-key "])
async def test_with_keys_configured_a_known_one_is_required(
    mesh: Any, call: Any, spec: Any, keys_file: Path, key: str | None
) -> None:
    engine = FakeEngine()
    server = await mesh.serve(*services(engine), settings=settings(keys_file=keys_file))
    client = mesh.client(server, key=key)

    if key == "shop-key ":  # a trailing space of a file is forgiven
        await client.generate(spec(), call())
        return
    for ask in (client.generate, client.events):
        with pytest.raises(errors.KeyUnknown):
            await ask(spec(), call())
    assert engine.seen == []


async def test_the_tenant_is_the_keys_and_not_the_callers_word(
    mesh: Any, call: Any, spec: Any, keys_file: Path
) -> None:
    engine = FakeEngine()
    server = await mesh.serve(*services(engine), settings=settings(keys_file=keys_file))
    stub = mesh.client(server).stub

    async def tenant(key: str) -> str:
        headers = ((metadata.AUTHORIZATION, f"Bearer {key}"), (metadata.TENANT, "victim"))
        await stub.Generate(v1.GenerateRequest(spec=spec()), metadata=headers)
        return engine.seen[-1].call.caller.tenant

    assert await tenant("shop-key") == "acme"
    assert await tenant("router-key") == "victim"  # a router speaks for its tenants


async def test_a_key_needs_the_scope_the_service_asks_for(mesh: Any, call: Any, spec: Any, keys_file: Path) -> None:
    server = await mesh.serve(
        *services(FakeEngine()), settings=settings(keys_file=keys_file), scopes={INFERENCE: ROUTE}
    )

    await mesh.client(server, key="router-key").generate(spec(), call())
    for key in ("shop-key", "watcher-key"):
        with pytest.raises(errors.ScopeMissing, match="route"):
            await mesh.client(server, key=key).generate(spec(), call())


async def test_health_stays_open_where_keys_are_asked_for(mesh: Any, keys_file: Path) -> None:
    server = await mesh.serve(*services(FakeEngine()), settings=settings(keys_file=keys_file))
    health = health_pb2_grpc.HealthStub(mesh.client(server).remote.channel)

    answer = await health.Check(health_pb2.HealthCheckRequest(service=INFERENCE))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_tenant_travels_on_behind_a_router(mesh: Any, spec: Any, keys_file: Path) -> None:
    engine = FakeEngine()
    relay = await mesh.relay(await mesh.serve(*services(engine)), settings=settings(keys_file=keys_file))
    stub = mesh.client(relay).stub

    await stub.Generate(v1.GenerateRequest(spec=spec()), metadata=((metadata.AUTHORIZATION, "Bearer shop-key"),))

    assert engine.seen[-1].call.caller.tenant == "acme"
    assert engine.seen[-1].call.hop == 1


# A reader that takes nothing.


class Flood(inference_pb2_grpc.InferenceServiceServicer):
    """Sends without end, as much as is taken."""

    sent = 0
    closed = False

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        event = v1.GenerationEvent(delta=v1.Delta(text="x" * 100_000))
        try:
            while True:
                yield v1.StreamGenerateResponse(event=event)
                self.sent += 1
        finally:
            self.closed = True


async def test_a_reader_that_takes_nothing_is_cut_and_the_source_closed(
    mesh: Any, call: Any, spec: Any, until: Any, spans: Any
) -> None:
    flood = Flood()  # type: ignore[abstract]
    service = Service(INFERENCE, flood, inference_pb2_grpc.add_InferenceServiceServicer_to_server)
    server = await mesh.serve(service, settings=settings(write_stall_s=0.1), tracing=spans.tracing("engine"))
    client = mesh.client(server)

    with pytest.raises(errors.StreamInterrupted, match="the reader took nothing"):
        async with client.stream(spec(), call(60)) as responses:
            await until(lambda: flood.closed)  # while not one message has been read
            sent = flood.sent
            assert (await spans.one("engine")).attributes[names.ERROR_TYPE] == "STREAM_INTERRUPTED"
            async for _ in responses:
                pass

    assert flood.sent == sent


async def test_a_source_that_is_slow_is_not_taken_for_a_stalled_reader(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine(first_s=0.3)
    server = await mesh.serve(*services(engine), settings=settings(write_stall_s=0.05))

    assert len(await mesh.client(server).events(spec(), call())) == 8


# Spans.


async def test_one_trace_runs_through_client_and_services_and_parents_are_right(
    mesh: Any, call: Any, spec: Any, spans: Any
) -> None:
    b = await mesh.serve(*services(FakeEngine()), tracing=spans.tracing("b"))
    a = await mesh.relay(b, tracing=spans.tracing("a"))
    client = mesh.client(a, tracing=spans.tracing("client"))

    for ask, rpc in ((client.generate, "Generate"), (client.events, "StreamGenerate")):
        await ask(spec(), call())
        told = {(span.resource.attributes["service.name"], span.kind): span for span in (await spans.all())[-4:]}
        root = told["client", SpanKind.CLIENT]
        server_a, client_a, server_b = (
            told["a", SpanKind.SERVER],
            told["a", SpanKind.CLIENT],
            told["b", SpanKind.SERVER],
        )
        assert root.parent is None
        assert [span.parent.span_id for span in (server_a, client_a, server_b)] == [
            span.context.span_id for span in (root, server_a, client_a)
        ]
        assert len({span.context.trace_id for span in told.values()}) == 1
        assert server_a.name == server_b.name == f"{INFERENCE}/{rpc}"
        assert server_b.attributes[names.RPC_METHOD] == rpc
        assert server_b.attributes[names.REQUEST_ID] == "request-1"
        assert server_b.attributes[names.TENANT] == "anonymous"
        assert server_b.status.status_code is SpanStatus.UNSET


@pytest.mark.parametrize(
    ("faults", "reason", "code"),
    [
        (Refuse(errors.TargetBusy()), "TARGET_BUSY", StatusCode.UNAVAILABLE),
        (Refuse(errors.RequestInvalid()), "REQUEST_INVALID", StatusCode.INVALID_ARGUMENT),
        (Refuse(RuntimeError()), "INTERNAL", StatusCode.INTERNAL),  # type: ignore[arg-type]
        (Silence(), "EXPIRED", StatusCode.DEADLINE_EXCEEDED),
        (Stall(2), "EXPIRED", StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_a_failed_call_ends_its_span_with_the_reason(
    mesh: Any, call: Any, spec: Any, spans: Any, logged: Any, faults: Any, reason: str, code: StatusCode
) -> None:
    engine = FakeEngine(faults=Script(always=faults))
    client = mesh.client(await mesh.serve(*services(engine), tracing=spans.tracing("engine")))

    for number, ask in enumerate((client.generate, client.events), start=1):
        with pytest.raises(SpillwayError):
            await ask(spec(), call(0.1 if reason == "EXPIRED" else 10))
        span = (await spans.of("engine", count=number))[-1]
        assert span.status.status_code is SpanStatus.ERROR
        assert span.attributes[names.ERROR_TYPE] == reason
        assert span.attributes[names.RPC_STATUS] == code.value[0]


async def test_a_caller_that_leaves_ends_the_span_as_cancelled(mesh: Any, call: Any, spec: Any, spans: Any) -> None:
    engine = FakeEngine(faults=Script(always=Stall(2)))
    client = mesh.client(await mesh.serve(*services(engine), tracing=spans.tracing("engine")))

    async with client.stream(spec(), call()) as responses:
        async for _ in responses:
            break

    span = await spans.one("engine")
    assert span.attributes[names.ERROR_TYPE] == "CANCELLED"
    assert span.attributes[names.RPC_STATUS] == StatusCode.CANCELLED.value[0]


async def test_a_refused_key_ends_its_span_too(mesh: Any, call: Any, spec: Any, spans: Any, keys_file: Path) -> None:
    server = await mesh.serve(
        *services(FakeEngine()), settings=settings(keys_file=keys_file), tracing=spans.tracing("engine")
    )

    with pytest.raises(errors.KeyUnknown):
        await mesh.client(server, key="wrong").generate(spec(), call())

    span = await spans.one("engine")
    assert span.attributes[names.ERROR_TYPE] == "KEY_UNKNOWN"
    assert "wrong" not in span.to_json()


async def test_without_an_endpoint_the_callers_trace_still_passes_through(mesh: Any, spec: Any) -> None:
    engine = FakeEngine()
    relay = await mesh.relay(await mesh.serve(*services(engine)))
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    await mesh.client(relay).stub.Generate(
        v1.GenerateRequest(spec=spec()), metadata=(("traceparent", traceparent), ("tracestate", "vendor=1"))
    )

    context = engine.seen[-1].call.span.get_span_context()
    assert f"{context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{context.span_id:016x}" == "b7ad6b7169203331"
    assert context.trace_state.get("vendor") == "1"


async def test_a_broken_traceparent_starts_a_trace_of_its_own(mesh: Any, spec: Any, spans: Any) -> None:
    stub = mesh.client(await mesh.serve(*services(FakeEngine()), tracing=spans.tracing("engine"))).stub

    await stub.Generate(v1.GenerateRequest(spec=spec()), metadata=(("traceparent", "00-nonsense"),))

    assert (await spans.one("engine")).parent is None


async def test_every_task_has_its_own_call() -> None:
    with pytest.raises(LookupError):
        current_call()


async def test_calls_side_by_side_do_not_mix(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine(interval_s=0.001)
    client = mesh.client(await mesh.relay(await mesh.serve(*services(engine))))

    answers = await asyncio.gather(
        *(client.generate(spec(), call(request_id=f"request-{number}")) for number in range(20))
    )

    assert [answer.started.request_id for answer in answers] == [f"request-{number}" for number in range(20)]


async def test_a_rpc_that_nobody_serves_is_unimplemented(mesh: Any, call: Any) -> None:
    server = await mesh.serve(*services(FakeEngine())[1:])

    with pytest.raises(AioRpcError) as raised:
        await mesh.client(server).stub.CountTokens(v1.CountTokensRequest())
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_keeps_what_it_is_when_it_moves_under_another_span(call: Callable[..., Call]) -> None:
    asked = call(hop=2)

    assert asked.under(asked.span) == asked
    assert asked.onward().hop == 3
    assert asked.until(asked.deadline.within(1)).deadline.left() <= 1
