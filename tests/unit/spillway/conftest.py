"""What the tests of the core share: calls, requests, spans and a relay between two services."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.typing import EventDict

from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call, current_call
from spillway.rpc.remote import Remote
from spillway.rpc.server import Server, Service
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK, serving
from spillway.v1 import inference_pb2_grpc

INFERENCE = "spillway.v1.InferenceService"


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits for something to become true; fails after five seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    return wait


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as events:
        yield events


class Spans:
    """Tracing of several services into one place."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._tracings: list[Tracing] = []

    def tracing(self, service: str) -> Tracing:
        found = Tracing(service, exporter=self._exporter)
        self._tracings.append(found)
        return found

    async def all(self) -> Sequence[ReadableSpan]:
        for tracing in self._tracings:
            await asyncio.to_thread(tracing.flush)
        return self._exporter.get_finished_spans()

    async def of(self, service: str, *, count: int = 1) -> list[ReadableSpan]:
        """The spans that `service` has ended, once there are `count`."""
        async with asyncio.timeout(5):
            while True:
                found = [span for span in await self.all() if span.resource.attributes["service.name"] == service]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.002)

    async def one(self, service: str) -> ReadableSpan:
        (found,) = await self.of(service)
        return found

    def close(self) -> None:
        for tracing in self._tracings:
            tracing.close()


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.close()


class Client:
    """A caller of `InferenceService` at one address."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)

    async def generate(self, spec: v1.GenerationSpec, call: Call) -> v1.GenerateResponse:
        request = v1.GenerateRequest(spec=spec)
        return await self.remote.unary(self.stub.Generate, request, call, span_name="client.generate")

    def stream(self, spec: v1.GenerationSpec, call: Call) -> Any:
        request = v1.StreamGenerateRequest(spec=spec)
        return self.remote.stream(self.stub.StreamGenerate, request, call, span_name="client.stream")

    async def events(self, spec: v1.GenerationSpec, call: Call) -> list[v1.GenerationEvent]:
        async with self.stream(spec, call) as responses:
            return [response.event async for response in responses]


class Relay(inference_pb2_grpc.InferenceServiceServicer):
    """A service that passes generations on to another."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        return await self._client.generate(request.spec, current_call().onward())

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        async with self._client.stream(request.spec, current_call().onward()) as responses:
            async for response in responses:
                yield response


class Mesh:
    """Servers and clients of one test, closed at its end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def serve(self, *services: Service, settings: ServerSettings = LOOPBACK, **seams: Any) -> Server:
        return await self._stack.enter_async_context(serving(*services, settings=settings, **seams))

    async def relay(self, to: Server | str, *, tracing: Tracing | None = None, **seams: Any) -> Server:
        client = self.client(to, tracing=tracing)
        service = Service(
            INFERENCE,
            Relay(client),  # type: ignore[abstract]
            inference_pb2_grpc.add_InferenceServiceServicer_to_server,
        )
        return await self.serve(service, tracing=tracing, **seams)

    def client(self, to: Server | str, *, tracing: Tracing | None = None, **arguments: Any) -> Client:
        address = to if isinstance(to, str) else to.address
        remote = Remote(address, tracing=tracing or Tracing("client"), **arguments)
        self._stack.push_async_callback(remote.close)
        return Client(remote)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(stack)


@pytest.fixture
def call() -> Callable[..., Call]:
    def make(seconds: float = 10.0, request_id: str = "request-1", **fields: Any) -> Call:
        return Call(request_id, Deadline.after(seconds), **fields)

    return make


@pytest.fixture
def spec() -> Callable[..., v1.GenerationSpec]:
    def make(text: str = "hello", **fields: Any) -> v1.GenerationSpec:
        return v1.GenerationSpec(text=v1.TextPrompt(text=text), **fields)

    return make


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
