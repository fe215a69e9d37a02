"""The edge as a server: what it refuses, whom it lets in, what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import ClientSession
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.app import build
from services.router.http.settings import HttpSettings
from services.router.policy_settings import TargetSettings
from services.router.settings import RouterSettings
from spillway.rpc.keys import hash_key
from spillway.settings import ServerSettings, SettingsError
from spillway.telemetry.tracing import Tracing
from spillway.testing.faults import Cut, Script, Silence
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.http.rig import LISTEN, MESSAGES, client_of, running_edge
from tests.integration.router.mesh import Mesh, running_mesh

CHAT = "/v1/chat/completions"
BODY: Any = {"model": "auto", "messages": MESSAGES}
NOWHERE = (TargetSettings(name="local", kind="local", address="127.0.0.1:1"),)


@pytest.fixture
async def http(mesh: Mesh) -> AsyncIterator[ClientSession]:
    async with ClientSession(f"http://{mesh.http}") as session:
        yield session


async def refused(http: ClientSession, **request: Any) -> tuple[int, str | None, str | None]:
    """Status, code and param of a refused chat completion."""
    async with http.post(CHAT, **request) as response:
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return response.status, error["code"], error["param"]


async def test_a_stream_is_events_that_no_proxy_holds_back(http: ClientSession) -> None:
    async with http.post(CHAT, json={**BODY, "stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
        assert "no-transform" in response.headers["cache-control"]
        assert response.headers["x-spillway-target"] == "local"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2])


async def test_a_stream_that_failed_never_says_done(mesh: Mesh, http: ClientSession) -> None:
    mesh.local.faults = Script(Cut(3))
    async with http.post(CHAT, json={**BODY, "stream": True}, headers={"x-spillway-delivery": "live"}) as response:
        events = (await response.text()).split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "stream_interrupted"
    assert "DONE" not in "".join(events)
    assert '"finish_reason":"stop"' not in "".join(events)


@pytest.mark.parametrize(
    "body", ["{", "", "[1]", '"x"', "\xff", "[" * 100_000, '{"messages": [{"role": "user", "content": "\\ud800"}]}']
)
async def test_a_body_that_is_no_request_is_refused_clearly(http: ClientSession, body: str) -> None:
    assert await refused(http, data=body.encode("latin-1")) == (400, "invalid_value", "body")


async def test_a_body_that_is_too_long_is_refused_told_or_not() -> None:
    async with running_edge(http=HttpSettings(listen="127.0.0.1:0", max_body_bytes=1000)) as (mesh, _):

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        async with ClientSession(f"http://{mesh.http}") as http:
            for data in (b" " * 1001, pieces()):
                assert (await refused(http, data=data))[:2] == (413, "request_too_large")
            async with http.post(CHAT, json=BODY) as response:
                assert response.status == 200


async def test_what_is_not_served_is_refused_in_the_same_shape(http: ClientSession) -> None:
    async with http.get(CHAT) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (405, "method_not_allowed")
    async with http.post("/v1/moderations", json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_url")


async def test_a_caller_may_name_its_request(http: ClientSession) -> None:
    async with http.post(CHAT, json=BODY, headers={"x-request-id": "mine-1"}) as response:
        assert response.headers["x-request-id"] == "mine-1"
        assert (await response.json())["id"] == "chatcmpl-mine-1"
    async with http.post(CHAT, json=BODY, headers={"x-request-id": "caf\u00e9"}) as response:
        assert response.headers["x-request-id"].isascii()


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e12"])
async def test_a_deadline_that_is_none_is_refused(http: ClientSession, value: str) -> None:
    told = await refused(http, json=BODY, headers={"x-spillway-deadline-ms": value})
    assert told == (400, "invalid_value", "x-spillway-deadline-ms")


async def test_keys_open_the_edge_as_they_open_the_rpcs(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(
        f"keys: [{{name: a, sha256: {hash_key('k1')}, tenant: acme}},"
        f" {{name: b, sha256: {hash_key('k2')}, tenant: acme, scopes: [admin]}}]"
    )
    server = LOOPBACK.model_copy(update={"keys_file": file})
    async with running_mesh(server=server, http=LISTEN) as mesh:
        async with client_of(mesh, "k1") as client:
            await client.chat.completions.create(
                model="auto", messages=MESSAGES, extra_headers={"x-spillway-tenant": "other"}
            )
            assert mesh.local.seen[0].request.stamp.tenant == "acme"
        async with client_of(mesh, "unknown") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.models.list()
            assert caught.value.code == "invalid_api_key"
        async with client_of(mesh, "k2") as client:
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model="auto", messages=MESSAGES)
    assert len(mesh.local.seen) == 1


async def test_a_request_is_one_span_under_its_callers() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)
    async with running_edge(tracing=tracing) as (_, client):
        trace = "0af7651916cd43dd8448eb211c80319c"
        await client.chat.completions.create(
            model="auto", messages=MESSAGES, extra_headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        )
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="auto", messages=[])
        tracing.flush()
        served = [span for span in exporter.get_finished_spans() if span.name == f"POST {CHAT}"]
        attempt = next(span for span in exporter.get_finished_spans() if span.name == "router.attempt")
    good, bad = served
    assert good.context is not None
    assert f"{good.context.trace_id:032x}" == trace
    assert attempt.parent is not None
    assert attempt.parent.span_id == good.context.span_id
    assert good.attributes is not None
    assert (good.attributes["http.response.status_code"], good.attributes["http.route"]) == (200, CHAT)
    assert bad.attributes is not None
    assert (bad.attributes["http.response.status_code"], bad.attributes["error.type"]) == (400, "REQUEST_INVALID")


@asynccontextmanager
async def router(**http: Any) -> AsyncIterator[Any]:
    settings = RouterSettings(server=LOOPBACK, targets=NOWHERE, http=HttpSettings(**http))
    async with build(settings, keep=lambda attempt, call: None) as app:
        yield app


async def test_without_an_address_there_is_no_edge() -> None:
    async with router() as app:
        assert app.http is None


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with router(listen=f"127.0.0.1:{port}"):
                pass


async def test_small_pieces_are_not_held_back_by_the_socket() -> None:
    async with router(listen="127.0.0.1:0") as app, ClientSession(f"http://{app.http.address}") as http:
        async with http.get("/health") as response:
            assert (response.status, await response.json()) == (200, {"status": "ready"})
        [connection] = app.http._server.server_state.connections
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_server_that_drains_lets_answers_end() -> None:
    server = ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=30)
    async with running_edge(server=server) as (mesh, client):
        mesh.local.interval_s = 0.05
        asked = asyncio.create_task(client.chat.completions.create(model="auto", messages=MESSAGES))
        await eventually(lambda: mesh.local.running == 1)
        await mesh.drain()
        assert (await asked).choices[0].message.content == "one two three four five"
        with pytest.raises(openai.APIConnectionError):
            await client.models.list()


async def test_what_a_stop_cuts_off_is_told_so() -> None:
    async with running_edge() as (mesh, client):
        mesh.local.faults = Script(Silence())
        asked = asyncio.create_task(client.chat.completions.create(model="auto", messages=MESSAGES))
        await eventually(lambda: mesh.local.running == 1)
        await mesh.drain()
        with pytest.raises(openai.InternalServerError) as caught:
            await asked
        assert caught.value.code == "target_draining"
        await eventually(lambda: not mesh.local.running)


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    server = LOOPBACK.model_copy(update={"write_stall_s": 0.3})
    async with running_edge(server=server) as (mesh, _):
        mesh.local.answer = lambda spec: ("x" * 5000 + " ") * 4000
        host, _, port = mesh.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps({**BODY, "stream": True}).encode()
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        await eventually(lambda: mesh.local.cancelled == 1)
        assert mesh.outcomes() == ["local:cancelled"]
        writer.close()
        del reader


def test_an_address_that_is_none_is_a_wrong_setting() -> None:
    with pytest.raises((SettingsError, ValueError), match="listen"):
        HttpSettings(listen="7080")
