"""A cloud proxy in process, called over gRPC, before a simulated provider."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.cloud_proxy.app import CloudProxyApp, build
from services.cloud_proxy.audit_settings import AuditSettings
from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.key import Key
from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.limits import WINDOW_S, Scope
from services.cloud_proxy.settings import CloudProxySettings, ProviderSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.generation import fold
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import ServerSettings, StoreSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.http_simulator import HttpSimulator, serving
from spillway.v1 import cloud_pb2_grpc, inference_pb2_grpc

MODEL = "openai/gpt-4o-mini"
STAMP = v1.PolicyStamp(
    router="test", policy_revision="1", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY), target=MODEL, attempt=1
)
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "other"]}, "score": {"type": "number", "minimum": 1}},
    "required": ["label", "score"],
    "additionalProperties": False,
}
"""A schema, and the least that satisfies it is what the simulator answers."""
NOWHERE = "unix:///nowhere/valkey.sock"


def spec(text: str = "hello there", **more: Any) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])])
    return v1.GenerationSpec(**{"model": MODEL, "chat": chat, "coalescing": v1.Coalescing(window_ms=0), **more})


@dataclass(slots=True)
class Caller:
    """A client of one cloud proxy."""

    remote: Remote

    async def generate(
        self, asked: v1.GenerationSpec, *, stamp: v1.PolicyStamp | None = STAMP, seconds: float = 20.0
    ) -> v1.GenerateResponse:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        request = v1.GenerateRequest(spec=asked, stamp=stamp)
        return await self.remote.unary(stub.Generate, request, call(seconds), span_name="test")

    async def events(
        self, asked: v1.GenerationSpec, *, stamp: v1.PolicyStamp | None = STAMP, seconds: float = 20.0
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        request = v1.StreamGenerateRequest(spec=asked, stamp=stamp)
        async with self.remote.stream(stub.StreamGenerate, request, call(seconds), span_name="test") as answers:
            async for answer in answers:
                yield answer.event

    async def stream(self, asked: v1.GenerationSpec, **how: Any) -> v1.GenerateResponse:
        return await fold(self.events(asked, **how))

    async def providers(self, *, ask: bool = False) -> v1.ListProvidersResponse:
        stub = cloud_pb2_grpc.CloudProxyServiceStub(self.remote.channel)
        return await self.remote.unary(stub.ListProviders, v1.ListProvidersRequest(ask=ask), call(), span_name="test")

    async def estimate(self, asked: v1.GenerationSpec) -> v1.EstimateCostResponse:
        stub = cloud_pb2_grpc.CloudProxyServiceStub(self.remote.channel)
        return await self.remote.unary(stub.EstimateCost, v1.EstimateCostRequest(spec=asked), call(), span_name="test")

    async def models(self) -> v1.ListModelsResponse:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        return await self.remote.unary(stub.ListModels, v1.ListModelsRequest(), call(), span_name="test")

    async def count(self, asked: v1.GenerationSpec) -> v1.CountTokensResponse:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        return await self.remote.unary(stub.CountTokens, v1.CountTokensRequest(spec=asked), call(), span_name="test")


@dataclass(slots=True)
class Rig(Caller):
    """A cloud proxy in this process, a client of it, and what it tells."""

    app: CloudProxyApp
    simulator: HttpSimulator
    exporter: InMemorySpanExporter
    tracing: Tracing

    def spans(self, name: str) -> list[ReadableSpan]:
        self.tracing.flush()
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    @property
    def provider(self) -> HttpProvider:
        found = next(iter(self.app.proxy.routes.values())).adapter
        assert isinstance(found, HttpProvider)
        return found

    async def used(self) -> tuple[int, int]:
        """Requests and tokens counted for the provider."""
        return await used(self.app, "openai")

    async def leave_early(self) -> None:
        """Leave an answer at its first words, and wait until the provider has seen it."""
        async with aclosing(self.events(spec())) as events:
            async for event in events:
                if event.HasField("delta"):
                    break
        async with asyncio.timeout(5):
            await self.simulator.left.wait()
        assert self.simulator.running == 0
        assert not self.simulator.seen[0].finished

    async def fail(self, kind: type[SpillwayError]) -> tuple[int, int]:
        """Ask for an answer that fails with `kind`, then for one that does not; return what the first has used."""
        with pytest.raises(kind) as caught:
            await self.stream(spec())
        assert type(caught.value) is kind
        requests, tokens = await self.used()
        assert requests == 1
        assert tokens < 100
        assert (await self.stream(spec())).usage.completion_tokens == 6
        assert self.simulator.running == 0
        return requests, tokens


async def used(app: CloudProxyApp, provider: str) -> tuple[int, int]:
    """Requests and tokens that `app` and all others count for `provider`, once all is settled."""
    limiter = app.proxy.rationing.limiter
    await limiter.settled()
    counted = (await limiter.look(provider, [Scope("")]))[""].counted
    assert counted is not None
    return counted[0], counted[1] + counted[2]


@asynccontextmanager
async def raw(*pieces: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve `pieces`, byte by byte as they are, to whoever sends an HTTP request; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def connected(port: int) -> Iterator[socket.socket]:
    """Yield every socket of this process that is connected to `port` here, each for one look."""
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=os.dup(int(file.name))) as found:
            if found.family == socket.AF_INET and found.getpeername()[1] == port:
                yield found


def keyring(*keys: str) -> Keyring:
    """Return a keyring of `keys`, from env:A, env:B and so on."""
    found = {f"env:{name}": Key(text) for name, text in zip("ABCDEF", keys, strict=False)}
    return Keyring("openai", found or None, clock=time.monotonic)


def call(seconds: float = 20.0) -> Call:
    return Call("test-request", Deadline.after(seconds))


def declared(base_url: str, **more: Any) -> dict[str, Any]:
    """Settings of the simulated provider at `base_url`."""
    return {
        "name": "openai",
        "region": "us",
        "base_url": base_url,
        "simulated": True,
        "models": [{"name": "gpt-4o-mini", "context_window": 128_000}],
        "price_list": "openai",
        **more,
    }


@asynccontextmanager
async def running(
    simulator: HttpSimulator,
    store_url: str,
    *,
    url: str | None = None,
    replicas: int = 1,
    environ: Mapping[str, str] | None = None,
    server: ServerSettings | None = None,
    audit: Mapping[str, Any] | None = None,
    limit_window_s: float = WINDOW_S,
    **provider: Any,
) -> AsyncIterator[Rig]:
    """Run a cloud proxy before `simulator` (served here unless `url` says where), with `provider` settings."""
    async with AsyncExitStack() as stack:
        if url is None:
            url = await stack.enter_async_context(serving(simulator))
        settings = CloudProxySettings(
            server=server or ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0),
            store=StoreSettings(url=store_url, timeout_s=5.0),
            providers=(ProviderSettings.model_validate(declared(url, **provider)),),
            replicas=replicas,
            audit=AuditSettings.model_validate(audit or {}),
        )
        exporter = InMemorySpanExporter()
        tracing = Tracing("cloud_proxy", exporter=exporter)
        stack.callback(tracing.close)
        app = await stack.enter_async_context(
            build(settings, environ=environ or {}, tracing=tracing, limit_window_s=limit_window_s)
        )
        remote = Remote(app.server.address, tracing=tracing, name=app.server.address)
        stack.push_async_callback(remote.close)
        yield Rig(remote, app, simulator, exporter, tracing)
