"""A runtime that runs by itself and speaks OpenAI's wire format, or Ollama's own: the model is there, not here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from services.local_engine import runtime_load, runtime_model
from services.local_engine.backend import Count
from services.local_engine.dialect import Dialect
from services.local_engine.ollama_dialect import NATIVE, OllamaDialect
from services.local_engine.openai_dialect import OpenAIDialect
from services.local_engine.pace import Pace, Window
from services.local_engine.presets import PRESETS, Preset
from services.local_engine.pulse import Pulse
from services.local_engine.runtime_client import RuntimeClient
from services.local_engine.runtime_errors import patient
from services.local_engine.runtime_model import About
from services.local_engine.settings import LocalEngineSettings, RuntimeSettings
from spillway import v1
from spillway.errors import SpillwayError, TargetDown, TargetTimeout
from spillway.generation import image_count, prompt_bytes
from spillway.logs import get_logger
from spillway.openai import embedding
from spillway.openai.exchange import Exchange
from spillway.rpc.call import Call
from spillway.settings import SettingsError
from spillway.tokens import estimated

log = get_logger(__name__)

TOKENIZED = ("model", "messages", "tools", "continue_final_message", "add_generation_prompt")
"""What of a request says how long its prompt is."""


class OpenAIBackend:
    """One model of one runtime."""

    adapters = None

    def __init__(
        self,
        client: RuntimeClient,
        dialect: Dialect,
        preset: Preset,
        about: About,
        settings: LocalEngineSettings,
    ) -> None:
        self._client = client
        self._dialect = dialect
        self._preset = preset
        self._about = about
        self._settings = settings
        self._runtime = settings.runtime
        self._pulse = Pulse()
        self._changed = asyncio.Event()
        self._told: runtime_load.Told | None = None
        self._told_at: float | None = None
        self._sequence = 0
        self._running = 0
        self.capabilities = capabilities(self._runtime, preset)
        self._watching = asyncio.create_task(self._watch(), name="runtime-watch")

    @classmethod
    async def opened(cls, settings: LocalEngineSettings, key: str | None) -> OpenAIBackend:
        """Reach the runtime and find the model there.

        Raises TargetUnavailable while that is not possible, SettingsError where it will not be.
        """
        runtime = settings.runtime
        dialect, preset = spoken(runtime)
        client = RuntimeClient(preset.name, runtime.address or preset.address, runtime, key)
        try:
            await client.get(preset.health)
            about = await runtime_model.about(client, preset, settings.runtime_model)
        except BaseException:
            await client.close()
            raise
        backend = cls(client, dialect, preset, about, settings)
        log.info(
            "runtime.connected",
            runtime=preset.name,
            address=runtime.address or preset.address,
            version=about.version or "not told",
            model=about.model,
            context=backend.context_window,
        )
        return backend

    @property
    def context_window(self) -> int | None:
        return self._runtime.context_window or self._runtime.num_ctx or self._about.context_window

    async def generate(
        self, spec: v1.GenerationSpec, call: Call, *, window: Window, whole: bool
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        began = time.monotonic()
        spec = self._limited(spec)
        body = self._dialect.body(spec, self._about.model)
        exchange = Exchange()
        reader = self._dialect.reader(max(1, spec.sampling.n), exchange)
        pace = Pace(window)
        first_token_at: float | None = None
        held: list[v1.Delta] = []
        self._running += 1
        try:
            source = self._client.stream(self._dialect.path, body, call, reader)
            async with aclosing(source):
                async for deltas in source:
                    pace.pulled()
                    if first_token_at is None:
                        first_token_at = time.monotonic()
                        yield v1.GenerationEvent(started=v1.Started())
                    elif whole:
                        held += deltas
                        continue
                    for delta in deltas:
                        yield v1.GenerationEvent(delta=delta)
                    if not whole and not reader.done:
                        await pace.rest()
            for delta in merged(held):
                yield v1.GenerationEvent(delta=delta)
            if first_token_at is None:  # an answer without a word
                yield v1.GenerationEvent(started=v1.Started())
            yield v1.GenerationEvent(finished=v1.Finished(choices=exchange.finishes))
            yield v1.GenerationEvent(usage=_usage(exchange, began, first_token_at))
        except SpillwayError as error:
            patient(error)
            raise
        finally:
            self._running -= 1

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        began = time.monotonic()
        body = embedding.body_of(spec, self._about.model)
        self._running += 1
        try:
            path = f"{self._preset.base}/embeddings"
            told = await self._client.answer(path, body, call, embedding.MAX_BODY_BYTES)
            # In a thread: numbers that are written out take long to read.
            read = partial(embedding.read_vectors, self._preset.name, told, spec, Exchange(), broken=TargetDown)
            response = await asyncio.to_thread(read)
        except SpillwayError as error:
            patient(error)
            raise
        finally:
            self._running -= 1
        response.usage.timings.total_ms = (time.monotonic() - began) * 1000
        return response

    async def count_tokens(self, spec: v1.GenerationSpec) -> Count:
        embeds = v1.CAPABILITY_EMBEDDINGS in self.capabilities
        body = {} if embeds else self._dialect.body(spec, self._about.model)
        try:
            tokens = await (self._counted_text(spec.text.text) if embeds else self._counted(body))
        except (SpillwayError, KeyError, TypeError, ValueError):
            tokens = None  # an older one, or a prompt it does not count: an estimate is better than nothing
        if tokens is None:
            return Count(estimated(prompt_bytes(spec), image_count(spec)), exact=False)
        return Count(tokens)

    def load(self, state: v1.EngineState.ValueType) -> v1.Load:
        age_s = None if self._told_at is None else time.monotonic() - self._told_at
        return runtime_load.load(state, self._running, self._told, sequence=self._sequence, age_s=age_s)

    def trouble(self) -> str:
        return self._pulse.why

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def died(self) -> str:
        await asyncio.wait([self._watching])  # a runtime may come back, and `trouble` tells; a defect of ours does not
        return "the runtime is no longer watched"

    async def close(self) -> None:
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        await self._client.close()

    def _limited(self, spec: v1.GenerationSpec) -> v1.GenerationSpec:
        """Return `spec` with the setting for answers that name no length."""
        limit = self._settings.max_tokens
        if limit is None or spec.sampling.HasField("max_tokens"):
            return spec
        limited = v1.GenerationSpec()
        limited.CopyFrom(spec)
        limited.sampling.max_tokens = limit
        return limited

    async def _counted(self, body: Mapping[str, Any]) -> int | None:
        """Return the runtime's own count, None where it has no way to."""
        match self._preset.counts:
            case "input_tokens":
                told = await self._client.ask(f"{self._dialect.path}/input_tokens", body)
                return int(told["input_tokens"])
            case "tokenize":
                asked = {name: body[name] for name in TOKENIZED if name in body}
                return int((await self._client.ask("/tokenize", asked))["count"])
        return None

    async def _counted_text(self, text: str) -> int | None:
        """Return the runtime's count of a text to be embedded, None where it has no way to."""
        if self._preset.counts != "tokenize":
            return None
        asked = {"model": self._about.model, "prompt": text}
        return int((await self._client.ask("/tokenize", asked))["count"])

    async def _watch(self) -> None:
        """Look at the runtime's health and load for ever."""
        while True:
            await asyncio.sleep(self._runtime.health_s)
            try:
                news = await self._look()
            except SpillwayError as error:
                busy = isinstance(error, TargetTimeout) and self._running > 0
                news = self._pulse.missed(error.message, gone=isinstance(error, TargetDown), busy=busy)
            except SettingsError as error:  # another model has been loaded there
                news = self._pulse.missed(str(error), gone=True, busy=False)
            if news:
                log.warning("runtime.changed", runtime=self._preset.name, why=self._pulse.why or "well again")
                self._changed.set()

    async def _look(self) -> bool:
        """Take the runtime's word on health and load; return whether its health is news."""
        await self._client.get(self._preset.health)
        if self._pulse.why:  # it may be another process by now, with another model
            self._about = await runtime_model.about(self._client, self._preset, self._settings.runtime_model)
        elif self.context_window is None:
            tokens = await runtime_model.context_window(self._client, self._preset, self._about.model)
            self._about = About(self._about.model, self._about.version, tokens)
        with suppress(SpillwayError, ValueError):  # metrics may be switched off
            match self._preset.tells_load:
                case "vllm":
                    self._told = runtime_load.from_vllm(await self._client.get("/metrics"), self._running)
                case "slots":
                    self._told = runtime_load.from_slots(await self._client.get("/slots"), self._running)
        self._sequence += 1
        self._told_at = time.monotonic()
        return self._pulse.well()

    def __repr__(self) -> str:
        return f"<OpenAIBackend {self._preset.name} {self._about.model} {self._running} running {self._pulse!r}>"


def spoken(runtime: RuntimeSettings) -> tuple[Dialect, Preset]:
    """Return how the runtime is spoken to, and what it is like then. Raises SettingsError for what it never has."""
    preset = PRESETS[runtime.kind]
    if v1.CAPABILITY_EMBEDDINGS in capabilities(runtime, preset) and not preset.embeddings:
        raise SettingsError(f"local_engine.runtime.capabilities: {preset.name} has no embeddings")
    if runtime.num_ctx is None and runtime.keep_alive is None:
        return OpenAIDialect(preset, capabilities(runtime, preset), fetch_from=runtime.fetch_from), preset
    dialect = OllamaDialect(capabilities(runtime, preset), num_ctx=runtime.num_ctx, keep_alive=runtime.keep_alive)
    return dialect, NATIVE


def capabilities(runtime: RuntimeSettings, preset: Preset) -> tuple[v1.Capability.ValueType, ...]:
    """Return what the model can do there: as the settings say, else as most models can."""
    if runtime.capabilities is None:
        return preset.capabilities
    return tuple(v1.Capability.Value(f"CAPABILITY_{name.upper()}") for name in sorted(runtime.capabilities))


def merged(deltas: Iterable[v1.Delta]) -> Iterator[v1.Delta]:
    """Yield one delta per choice that says what all of them say."""
    choices: dict[int, list[v1.Delta]] = {}
    for delta in deltas:
        choices.setdefault(delta.choice, []).append(delta)
    for choice, parts in choices.items():
        yield v1.Delta(
            choice=choice,
            text="".join(part.text for part in parts),
            reasoning="".join(part.reasoning for part in parts),
            logprobs=[logprob for part in parts for logprob in part.logprobs],
            tool_calls=[call for part in parts for call in part.tool_calls],
        )


def _usage(exchange: Exchange, began: float, first_token_at: float | None) -> v1.Usage:
    usage = v1.Usage()
    if exchange.usage is not None:
        usage.CopyFrom(exchange.usage)
    usage.timings.total_ms = (time.monotonic() - began) * 1000
    if first_token_at is not None:
        usage.timings.first_token_ms = (first_token_at - began) * 1000
    return usage
