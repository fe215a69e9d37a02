"""A runtime that chokes on concurrency and says so, and the backend that calls it: one connection is one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.local_engine.backend import Count
from services.local_engine.pace import Window
from services.local_engine.support import unsupported
from spillway import v1
from spillway.errors import TargetDown
from spillway.rpc.call import Call
from spillway.v1 import GenerationSpec

HANGS = "hang"
"""A prompt that begins so is answered with one token, and then with nothing until the runtime is let go."""


@dataclass
class Runtime:
    """Takes `slots` calls at once; one more is a collision, and refused."""

    slots: int = 1
    interval_s: float = 0.0
    address: str = ""
    inside: int = 0
    most: int = 0
    collisions: int = 0
    entered: list[str] = field(default_factory=list)
    entered_at: list[float] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One call."""
        prompt = (await reader.readline()).decode().strip()
        if self.inside >= self.slots:
            self.collisions += 1
            writer.write(b"404\n")
            writer.close()
            return
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.append(prompt)
        self.entered_at.append(asyncio.get_running_loop().time())
        answering = asyncio.create_task(self._answer(prompt, writer))
        leaving = asyncio.create_task(reader.read())
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, leaving):
            task.cancel()
        await asyncio.wait({answering, leaving})
        self.inside -= 1
        writer.close()

    async def _answer(self, prompt: str, writer: asyncio.StreamWriter) -> None:
        for number in range(3):
            writer.write(b"word\n")
            await writer.drain()
            await asyncio.sleep(self.interval_s)
            if prompt.startswith(HANGS) and not number:
                await self.go.wait()
        writer.write(b"end\n")
        await writer.drain()


@asynccontextmanager
async def serving_runtime(runtime: Runtime) -> AsyncIterator[Runtime]:
    """Serve `runtime` for the block."""
    server = await asyncio.start_server(runtime.serve, "127.0.0.1", 0)
    runtime.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield runtime
    finally:
        runtime.go.set()
        server.close()
        await server.wait_closed()


@dataclass
class RuntimeBackend:
    """Calls the runtime at `address`; a call that is cancelled has ended there before it has ended here."""

    address: str
    context_window: int = 100
    capabilities: tuple[v1.Capability.ValueType, ...] = (v1.CAPABILITY_TEXT_INPUT,)
    adapters: None = None

    async def generate(
        self, spec: GenerationSpec, call: Call, *, window: Window, whole: bool
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        tokens = 0
        try:
            writer.write(f"{spec.text.text}\n".encode())
            yield v1.GenerationEvent(started=v1.Started(prompt_tokens=1))
            while (line := (await reader.readline()).decode().strip()) == "word":
                tokens += 1
                yield v1.GenerationEvent(delta=v1.Delta(text=line, tokens=1))
            if line != "end":
                raise TargetDown(f"the runtime answered {line or 'nothing'}")
            yield v1.GenerationEvent(finished=v1.Finished(choices=[v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)]))
            yield v1.GenerationEvent(usage=v1.Usage(prompt_tokens=1, completion_tokens=tokens))
        finally:
            if writer.can_write_eof() and not reader.at_eof():
                writer.write_eof()
                await reader.read()
            writer.close()

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        raise unsupported("spec.model", "this runtime embeds nothing")

    async def count_tokens(self, spec: GenerationSpec) -> Count:
        return Count(1)

    def trouble(self) -> str:
        return ""

    async def changed(self) -> None:
        await asyncio.Event().wait()

    def load(self, state: v1.EngineState.ValueType) -> v1.Load:
        return v1.Load(state=state)

    async def died(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def close(self) -> None:
        """Nothing is kept between calls."""
