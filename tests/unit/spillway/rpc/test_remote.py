from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode as SpanStatus

from spillway import errors
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.telemetry import names
from spillway.testing.clock import HandClock
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.faults import Refuse, Script, Silence, Stall


async def test_leaving_a_stream_cancels_the_handler_on_the_other_side(
    mesh: Any, call: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(answer=lambda spec: "word " * 1000, interval_s=0.005)
    client = mesh.client(await mesh.serve(*services(engine)))

    async with client.stream(spec(), call(60)) as responses:
        async for _ in responses:
            assert engine.running == 1
            break

    await until(lambda: (engine.running, engine.cancelled) == (0, 1))


async def test_leaving_before_the_first_message_cancels_too(mesh: Any, call: Any, spec: Any, until: Any) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    client = mesh.client(await mesh.serve(*services(engine)))

    async with client.stream(spec(), call(60)):
        await until(lambda: engine.running == 1)

    await until(lambda: (engine.running, engine.cancelled) == (0, 1))


@pytest.mark.parametrize("rpc", ["generate", "events"])
async def test_cancelling_the_task_cancels_the_handler_two_services_away(
    mesh: Any, call: Any, spec: Any, until: Any, rpc: str
) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    client = mesh.client(await mesh.relay(await mesh.serve(*services(engine))))

    task = asyncio.create_task(getattr(client, rpc)(spec(), call(60)))
    await until(lambda: engine.running == 1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: (engine.running, engine.cancelled) == (0, 1))


async def test_an_error_inside_the_block_cancels_the_call_and_passes_with_its_cause(
    mesh: Any, call: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(faults=Script(always=Stall(1)))
    client = mesh.client(await mesh.serve(*services(engine)))

    with pytest.raises(ValueError, match="mine") as raised:
        async with client.stream(spec(), call(60)) as responses:
            async for _ in responses:
                raise ValueError("mine") from KeyError("why")

    assert isinstance(raised.value.__cause__, KeyError)
    await until(lambda: engine.running == 0)


async def test_a_peer_that_is_not_there_is_a_target_that_is_down(
    mesh: Any, call: Any, spec: Any, free_port: int
) -> None:
    client = mesh.client(f"127.0.0.1:{free_port}")

    for ask in (client.generate, client.events):
        with pytest.raises(errors.TargetDown):
            await ask(spec(), call())


async def test_a_peer_that_stops_in_the_middle_is_a_target_that_is_down(
    mesh: Any, call: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(faults=Script(always=Stall(2)))
    server = await mesh.serve(*services(engine))
    client = mesh.client(server)

    async with asyncio.TaskGroup() as background:
        with pytest.raises(errors.TargetDown):
            async with client.stream(spec(), call(60)) as responses:
                async for _ in responses:
                    if engine.running:
                        background.create_task(server.close())


async def test_a_channel_closed_under_a_call_is_no_cancel_of_the_callers(
    mesh: Any, call: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    client = mesh.client(await mesh.serve(*services(engine)))

    task = asyncio.create_task(client.generate(spec(), call(60)))
    await until(lambda: engine.running == 1)
    await client.remote.close()

    with pytest.raises(errors.TargetDown, match="closed"):
        await task


async def test_a_passed_deadline_calls_nobody(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    client = mesh.client(await mesh.serve(*services(engine)))
    clock = HandClock()
    late = call().until(Deadline.after(0, clock))

    for ask in (client.generate, client.events):
        with pytest.raises(errors.DeadlineExceeded):
            await ask(spec(), late)
    assert engine.seen == []


@pytest.mark.parametrize("rpc", ["generate", "events"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, None),
        (Refuse(errors.QueueFull()), "QUEUE_FULL"),
        (Refuse(RuntimeError()), "INTERNAL"),  # type: ignore[arg-type]
        (Silence(), "EXPIRED"),
    ],
)
async def test_every_call_ends_its_span_and_says_how_it_ended(
    mesh: Any, call: Any, spec: Any, spans: Any, logged: Any, rpc: str, fault: Any, reason: str | None
) -> None:
    engine = FakeEngine(faults=Script(always=fault))
    client = mesh.client(await mesh.serve(*services(engine)), tracing=spans.tracing("client"))

    with contextlib.suppress(SpillwayError):
        await getattr(client, rpc)(spec(), call(0.1 if reason == "EXPIRED" else 10))

    span = await spans.one("client")
    assert span.kind is SpanKind.CLIENT
    assert span.attributes.get(names.ERROR_TYPE) == reason
    assert span.status.status_code is (SpanStatus.ERROR if reason else SpanStatus.UNSET)


@pytest.mark.parametrize("rpc", ["generate", "events"])
async def test_a_cancelled_call_ends_its_span_as_cancelled(
    mesh: Any, call: Any, spec: Any, spans: Any, until: Any, rpc: str
) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    client = mesh.client(await mesh.serve(*services(engine)), tracing=spans.tracing("client"))

    task = asyncio.create_task(getattr(client, rpc)(spec(), call(60)))
    await until(lambda: engine.running == 1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    assert (await spans.one("client")).attributes[names.ERROR_TYPE] == "CANCELLED"


async def test_leaving_a_stream_early_ends_the_span_without_an_error(
    mesh: Any, call: Any, spec: Any, spans: Any
) -> None:
    client = mesh.client(await mesh.serve(*services(FakeEngine(interval_s=0.01))), tracing=spans.tracing("client"))

    async with client.stream(spec(), call()) as responses:
        async for _ in responses:
            break

    assert (await spans.one("client")).status.status_code is SpanStatus.UNSET


async def test_a_crash_inside_the_block_ends_the_span_with_the_kind_of_crash_alone(
    mesh: Any, call: Any, spec: Any, spans: Any
) -> None:
    client = mesh.client(await mesh.serve(*services(FakeEngine())), tracing=spans.tracing("client"))

    with pytest.raises(ValueError, match="secret"):
        async with client.stream(spec(), call()):
            raise ValueError("a secret of the caller")

    span = await spans.one("client")
    assert span.attributes[names.ERROR_TYPE] == "ValueError"
    assert "secret" not in span.to_json()


async def test_a_message_over_the_limit_is_refused_as_the_requests_fault(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    client = mesh.client(await mesh.serve(*services(engine)))

    with pytest.raises(errors.RequestInvalid, match="larger than max"):
        await client.generate(spec("x" * (17 * 2**20)), call(60))
    assert engine.seen == []


async def test_a_prompt_of_10_mb_is_refused_with_the_name_of_the_field(mesh: Any, call: Any, spec: Any) -> None:
    client = mesh.client(await mesh.serve(*services(FakeEngine())))

    for ask in (client.generate, client.events):
        with pytest.raises(errors.RequestInvalid) as raised:
            await ask(spec("x" * 10_000_000), call(60))
        assert [violation.field for violation in raised.value.fields] == ["spec.input"]
        assert "10000000 bytes" in raised.value.message


async def test_ids_and_tenants_in_any_script_travel_as_ascii(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine()
    client = mesh.client(await mesh.serve(*services(engine)))

    await client.generate(spec(), call(request_id="Bestellung für Zoë\n"))

    assert engine.seen[-1].call.request_id == "Bestellung f?r Zo??"
