from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from spillway import errors
from spillway.rpc.server import Server
from spillway.settings import ServerSettings, SettingsError
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.faults import Script, Silence, Stall
from spillway.testing.server import LOOPBACK

INFERENCE = "spillway.v1.InferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def settings(**changes: Any) -> ServerSettings:
    return LOOPBACK.model_copy(update=changes)


async def health(server: Server) -> dict[str, int]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        names = ("", "liveness", "readiness", INFERENCE)
        return {name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names}


async def test_a_server_is_alive_at_once_and_ready_when_told(mesh: Any) -> None:
    server = Server(LOOPBACK, services(FakeEngine()), tracing=Tracing("test"))
    await server.start()
    try:
        assert await health(server) == {
            "": NOT_SERVING,
            "liveness": SERVING,
            "readiness": NOT_SERVING,
            INFERENCE: NOT_SERVING,
        }
        await server.health.set_ready(True)
        assert set((await health(server)).values()) == {SERVING}
    finally:
        await server.close()


async def test_a_change_of_health_is_logged_once(mesh: Any, logged: Any) -> None:
    server = await mesh.serve(*services(FakeEngine()))

    for ready in (True, False, False, True):
        await server.health.set_ready(ready, "because")

    changes = [event["ready"] for event in logged if event["event"] == "health.changed"]
    assert changes == [True, False, True]
    assert repr(server.health) == "<Health ready>"


async def test_the_health_of_a_service_that_is_not_served_is_not_found(mesh: Any) -> None:
    server = await mesh.serve(*services(FakeEngine()))
    stub = health_pb2_grpc.HealthStub(mesh.client(server).remote.channel)

    with pytest.raises(AioRpcError) as raised:
        await stub.Check(health_pb2.HealthCheckRequest(service="spillway.v1.Nobody"))
    assert raised.value.code() is StatusCode.NOT_FOUND


async def test_at_shutdown_a_running_stream_ends_and_new_calls_are_refused(
    mesh: Any, call: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(answer=lambda spec: "word " * 30, interval_s=0.01)
    server = await mesh.serve(*services(engine), settings=settings(drain_s=30.0))
    client, late = mesh.client(server), mesh.client(server, name="late")

    running = asyncio.create_task(client.events(spec(), call()))
    await until(lambda: engine.running == 1)
    draining = asyncio.create_task(server.drain())
    await until(lambda: not server.health.ready)
    while True:
        try:
            await late.generate(spec(), call())
        except errors.TargetUnavailable:
            break

    assert (await running)[-1].WhichOneof("event") == "usage"
    await draining  # long before drain_s: nothing is running any more


async def test_balancers_see_not_serving_before_calls_are_refused(mesh: Any, call: Any, spec: Any, until: Any) -> None:
    server = await mesh.serve(*services(FakeEngine()), settings=settings(announce_s=30.0))

    draining = asyncio.create_task(server.drain())
    await until(lambda: not server.health.ready)

    assert (await health(server))[INFERENCE] == NOT_SERVING
    await mesh.client(server).generate(spec(), call())
    draining.cancel()
    await asyncio.wait([draining])


async def test_what_outlasts_the_drain_is_cut_and_its_handler_cancelled(
    mesh: Any, call: Any, spec: Any, until: Any
) -> None:
    engine = FakeEngine(faults=Script(always=Stall(2)))
    server = await mesh.serve(*services(engine), settings=settings(drain_s=0.05))

    running = asyncio.create_task(mesh.client(server).events(spec(), call(60)))
    await until(lambda: engine.running == 1)
    await server.drain()

    with pytest.raises(errors.TargetDown):
        await running
    await until(lambda: (engine.running, engine.cancelled) == (0, 1))


async def test_a_watcher_of_health_does_not_hold_up_the_end(mesh: Any, until: Any) -> None:
    server = await mesh.serve(*services(FakeEngine()), settings=settings(drain_s=30.0))
    stub = health_pb2_grpc.HealthStub(mesh.client(server).remote.channel)
    watching = stub.Watch(health_pb2.HealthCheckRequest(service=INFERENCE))
    assert (await watching.read()).status == SERVING

    async with asyncio.timeout(10):
        await server.drain()
    watching.cancel()


async def test_a_server_can_be_closed_twice_and_at_once(mesh: Any, call: Any, spec: Any, until: Any) -> None:
    engine = FakeEngine(faults=Script(always=Silence()))
    server = await mesh.serve(*services(engine))
    running = asyncio.create_task(mesh.client(server).generate(spec(), call(60)))
    await until(lambda: engine.running == 1)

    await asyncio.gather(server.close(), server.close(), server.drain())
    await server.close()

    with pytest.raises(errors.TargetDown):
        await running


async def test_reflection_lists_what_is_served(mesh: Any) -> None:
    server = await mesh.serve(*services(FakeEngine()))
    stub = reflection_pb2_grpc.ServerReflectionStub(mesh.client(server).remote.channel)
    asking = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))

    answer = await asking.read()

    assert {service.name for service in answer.list_services_response.service} == {
        INFERENCE,
        "spillway.v1.EngineTelemetryService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    asking.cancel()


async def test_channelz_is_served_on_its_own_port_and_only_if_asked_for(mesh: Any) -> None:
    async def servers(address: str) -> int:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = channelz_pb2_grpc.ChannelzStub(channel)
            return len((await stub.GetServers(channelz_pb2.GetServersRequest())).server)

    plain = await mesh.serve(*services(FakeEngine()))
    watched = await mesh.serve(*services(FakeEngine()), settings=settings(admin_listen="127.0.0.1:0"))

    assert await servers(f"127.0.0.1:{watched.admin_port}") >= 2
    for address in (plain.address, watched.address):
        with pytest.raises(AioRpcError) as raised:
            await servers(address)
        assert raised.value.code() is StatusCode.UNIMPLEMENTED
    assert plain.admin_port == 0


async def test_a_port_that_is_taken_is_an_error_that_names_it(mesh: Any) -> None:
    taken = (await mesh.serve(*services(FakeEngine()))).address

    for changes in ({"listen": taken}, {"admin_listen": taken}):
        server = Server(settings(**changes), [], tracing=Tracing("test"))
        with pytest.raises(OSError, match=taken):
            await server.start()
        await server.close()


async def test_a_wrong_file_of_keys_stops_the_start(mesh: Any, tmp_path: Any) -> None:
    server = Server(settings(keys_file=tmp_path / "absent.yaml"), [], tracing=Tracing("test"))

    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        await server.start()
    assert server.port == 0


@pytest.mark.parametrize(
    ("listen", "address"),
    [("0.0.0.0:7070", "127.0.0.1:0"), ("[::]:7070", "127.0.0.1:0"), ("localhost:7070", "localhost:0")],
)
async def test_the_address_is_one_a_client_can_dial(listen: str, address: str) -> None:
    server = Server(settings(listen=listen), [], tracing=Tracing("test"))

    assert server.address == address
    assert repr(server) == f"<Server {address} <Health not ready>>"
    await server.close()
