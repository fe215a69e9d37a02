"""The engine: one backend, from starting to its end, and what every request to it passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext

from opentelemetry.trace import Span

from services.local_engine import support
from services.local_engine.adapters import Adapters
from services.local_engine.backend import AdapterLoader, Backend, Count
from services.local_engine.pace import Window
from services.local_engine.settings import LocalEngineSettings
from spillway import embedding, v1
from spillway.deadline import Deadline
from spillway.errors import SpillwayError, TargetBusy, TargetDown, TargetDraining, TargetUnavailable
from spillway.generation import check, for_decoder
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.settings import SettingsError
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail

log = get_logger(__name__)

Opener = Callable[[], Awaitable[Backend]]
AdaptersOpener = Callable[[AdapterLoader], Awaitable[Adapters]]

WARM_S = 300.0
"""Longest time for the first token of all, compilation included."""
MAX_WINDOW_S = 0.1
"""Longest merging window that the number of streams alone can make."""
BUSY_S = 1.0
"""Pause before a runtime that others use is asked again."""
LONGEST_BACKOFF_S = 5.0
"""Longest time between two tries to reach a runtime that is not there yet."""
FAREWELL_S = 1.0
"""Longest time for running streams to tell their callers that the engine died."""


class Engine:
    """Serves one model; until it has produced a token it refuses everything.

    `open_adapters` is called if there are to be adapters and the backend takes them.
    """

    def __init__(
        self,
        settings: LocalEngineSettings,
        open_backend: Opener,
        tracing: Tracing,
        open_adapters: AdaptersOpener | None = None,
    ) -> None:
        self.model = settings.name
        self.target = settings.target
        self._region = settings.region
        self._window_s = settings.merge_window_ms / 1000
        self._message_s = 1 / settings.messages_per_s
        self._names = settings.names
        self._in_process = settings.runtime.in_process
        self._open = open_backend
        self._open_adapters = open_adapters
        self._tracing = tracing
        self._backend: Backend | None = None
        self.adapters: Adapters | None = None
        """None until there are some to be had."""
        self.leaving: Callable[[], bool] = lambda: False
        """Whether the server this is served by drains; set by the composition root."""
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0
        self.state: v1.EngineState.ValueType = v1.ENGINE_STATE_STARTING
        self.why = "the engine is starting"
        """Why it does not serve, while it does not."""

    async def start(self) -> None:
        """Load the model and produce one token; then requests are served.

        What runs by itself is waited for, as long as it takes. Raises SettingsError where it can never serve, for an
        adapter that the settings name too.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                backend, loaded = await self._begin()
                break
            except (TargetUnavailable, TimeoutError) as error:
                if self._in_process:
                    raise
                why = f"the engine is starting: {error or 'no first token yet'}"
                if why != self.why:
                    log.warning("engine.waiting", why=str(error))
                self.state, self.why = v1.ENGINE_STATE_STARTING, why
                await self._drop()
                await asyncio.sleep(backoff_s(tries))
                tries += 1
            except SpillwayError as error:
                if self._in_process:
                    raise
                raise SettingsError(f"local_engine.runtime: {error.message}") from error
        self.state, self.why = v1.ENGINE_STATE_SERVING, ""
        now = time.monotonic()
        log.info(
            "engine.ready",
            model=self.model,
            context=backend.context_window,
            load_s=round(loaded - began, 1),
            first_token_s=round(now - loaded, 2),
            start_s=round(now - began, 1),
        )

    async def _begin(self) -> tuple[Backend, float]:
        """Open the backend and have it say something; return it, and when it was open."""
        self._backend = backend = await self._open()
        loaded = time.monotonic()
        self.state = v1.ENGINE_STATE_WARMING
        await self._warm(backend)
        if v1.CAPABILITY_CHOICES in backend.capabilities and self._in_process:
            constraint = v1.OutputConstraint(choices=v1.Choices(values=["a", "b"]))
            try:  # what the first caller who wants it would wait for
                await _first_token(backend, v1.GenerationSpec(constraint=constraint, logprobs=v1.Logprobs(top=1)))
            except SpillwayError as error:
                log.warning("engine.unguided", why=error.message)
        if self._open_adapters is not None and backend.adapters is not None:
            adapters = await self._open_adapters(backend.adapters)
            await adapters.start()
            self.adapters = adapters
        return backend, loaded

    async def generate(
        self, spec: v1.GenerationSpec, call: Call, *, whole: bool = False
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        """Yield the events of one answer, numbered; with `whole` in as few deltas as possible."""
        backend = self._ready()
        check(spec)
        spec = for_decoder(spec)
        support.require(spec, self._names, backend.capabilities, self._adapter_names)
        window = self._window(spec.coalescing)
        with self._work(names.ENGINE_GENERATE, call) as span:
            events = backend.generate(spec, call.under(span), window=window, whole=whole)
            async with self._adapter(spec.adapter), aclosing(events):
                sequence = 0
                async for event in events:
                    event.sequence = sequence
                    sequence += 1
                    match event.WhichOneof("event"):
                        case "started":
                            started = event.started
                            started.request_id, started.model, started.target = call.request_id, self.model, self.target
                        case "usage":
                            span.set_attribute(names.INPUT_TOKENS, event.usage.prompt_tokens)
                            span.set_attribute(names.OUTPUT_TOKENS, event.usage.completion_tokens)
                    yield event

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        """Return a vector for every input; `alive` is told of the first, where that is known."""
        backend = self._ready()
        embedding.check(spec)
        support.require_embedding(spec, self._names, backend.capabilities)
        with self._work(names.ENGINE_EMBED, call) as span:
            response = await backend.embed(spec, call.under(span), alive)
            embedding.require_whole(spec, response)
            response.request_id, response.model, response.target = call.request_id, self.model, self.target
            if response.usage.HasField("prompt_tokens"):
                span.set_attribute(names.INPUT_TOKENS, response.usage.prompt_tokens)
            return response

    @contextmanager
    def _work(self, span_name: str, call: Call) -> Iterator[Span]:
        """Count an answer among those that are made, and tell of it in a span, for the block."""
        span = self._tracing.start(
            span_name, call.span, attributes={names.MODEL: self.model, names.TARGET: self.target}
        )
        self.running += 1
        self._idle.clear()
        try:
            yield span
        except SpillwayError as error:
            fail(span, error.reason)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            fail(span, "EXPIRED" if call.deadline.passed else "CANCELLED")
            raise
        except Exception as error:
            fail(span, type(error).__name__)
            raise
        finally:
            span.end()
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def count_tokens(self, spec: v1.GenerationSpec) -> Count:
        """Return the tokens of the prompt of `spec`."""
        backend = self._ready()
        check(spec)
        generates = tuple(can for can in backend.capabilities if can != v1.CAPABILITY_EMBEDDINGS)
        support.require(spec, self._names, generates, self._adapter_names)
        return await backend.count_tokens(spec)

    def models(self) -> list[v1.Model]:
        """The one model; its context is told once it is loaded."""
        model = v1.Model(name=self.model, target=self.target, kind=v1.TARGET_KIND_LOCAL, region=self._region)
        if self._backend is not None:
            if self._backend.context_window is not None:
                model.context_window = self._backend.context_window
            model.capabilities.extend(self._backend.capabilities)
            model.adapters.extend(self._adapter_names)
        return [model]

    def load(self) -> v1.Load:
        """The load as the backend last reported it; unknown until it runs."""
        state = self.state
        if state == v1.ENGINE_STATE_SERVING and self._backend is not None and self._backend.trouble():
            state = v1.ENGINE_STATE_UNHEALTHY
        elif self.draining:
            state = v1.ENGINE_STATE_DRAINING
        return v1.Load(state=state) if self._backend is None else self._backend.load(state)

    def trouble(self) -> str:
        """Why a started engine cannot serve for now; empty while it can."""
        return "" if self._backend is None else self._backend.trouble()

    async def changed(self) -> None:
        """Return when `trouble` may say something else."""
        assert self._backend is not None, "changed() before start()"
        await self._backend.changed()

    @property
    def draining(self) -> bool:
        """It is on its way out: what runs may end, nothing new begins."""
        return self.state == v1.ENGINE_STATE_SERVING and self.leaving()

    async def idle(self) -> None:
        """Return when no answer is being made."""
        await self._idle.wait()

    async def died(self) -> str:
        """Return why a started engine can serve no more, after its streams have told their callers."""
        assert self._backend is not None, "died() before start()"
        why = await self._backend.died()
        self.state = v1.ENGINE_STATE_UNHEALTHY
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self.idle()
        except TimeoutError:
            log.warning("engine.streams_left", running=self.running)
        return why

    async def close(self) -> None:
        await self._drop()

    async def _warm(self, backend: Backend) -> None:
        while True:
            try:
                if v1.CAPABILITY_EMBEDDINGS in backend.capabilities:
                    return await _first_vector(backend)
                return await _first_token(backend, v1.GenerationSpec())
            except TargetBusy as busy:  # another has the runtime now: it is there, and will be free
                log.info("engine.waits", why=busy.message)
                await asyncio.sleep(busy.retry_after_s or BUSY_S)

    async def _drop(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()

    def _window(self, coalescing: v1.Coalescing) -> Window:
        """How long deltas may be held back: what the caller says, or more the more streams there are."""
        if coalescing.HasField("window_ms"):
            told = coalescing.window_ms / 1000
            return lambda: told
        return lambda: max(self._window_s, min(self.running * self._message_s, MAX_WINDOW_S))

    @property
    def _adapter_names(self) -> list[str]:
        return [] if self.adapters is None else self.adapters.names

    @asynccontextmanager
    async def _adapter(self, name: str) -> AsyncIterator[None]:
        with nullcontext() if self.adapters is None else self.adapters.used(name):
            yield

    def _ready(self) -> Backend:
        if self._backend is None or self.state in (v1.ENGINE_STATE_STARTING, v1.ENGINE_STATE_WARMING):
            raise TargetDown(f"{self.target}: {self.why}", retry_after_s=1.0)
        if self.state == v1.ENGINE_STATE_UNHEALTHY:
            raise TargetDown(f"{self.target}: the engine has died")
        if self.draining:
            raise TargetDraining(f"{self.target}: the engine is about to stop")
        if trouble := self._backend.trouble():
            raise TargetDown(f"{self.target}: {trouble}", retry_after_s=1.0)
        return self._backend

    def __repr__(self) -> str:
        state = v1.EngineState.Name(self.state).removeprefix("ENGINE_STATE_").lower()
        return f"<Engine {self.model} {state} {self.running} running>"


def backoff_s(tries: int) -> float:
    """Return how long to wait after so many tries that failed before, in seconds."""
    return min(0.1 * 2.0 ** min(tries, 10), LONGEST_BACKOFF_S)


async def _first_token(backend: Backend, spec: v1.GenerationSpec) -> None:
    spec.text.text = "Hello"
    spec.sampling.CopyFrom(v1.Sampling(max_tokens=1, temperature=0))
    events = backend.generate(spec, Call("warm-up", Deadline.after(WARM_S)), window=lambda: 0.0, whole=True)
    async with asyncio.timeout(WARM_S), aclosing(events):
        async for _ in events:
            pass


async def _first_vector(backend: Backend) -> None:
    spec = v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text="Hello")])
    async with asyncio.timeout(WARM_S):
        await backend.embed(spec, Call("warm-up", Deadline.after(WARM_S)), lambda: None)
