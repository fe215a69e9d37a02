"""vLLM, in this process as AsyncLLM, with its core in a child process. The one module that imports it.

One code for GPUs and CPUs: which it is was decided when vLLM was built.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import lru_cache, partial
from typing import Any

import vllm
from pydantic import ValidationError
from tokenizers.decoders import DecodeStream
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams, check_json_nesting
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from services.local_engine import environment, json_grammar, prompt, resumption, vllm_parsers, vllm_version
from services.local_engine.answer import Answer, started
from services.local_engine.backend import Count
from services.local_engine.chat_messages import has_images
from services.local_engine.decoding import Decoding, Guide, decoding, refused
from services.local_engine.fill_in_the_middle import frame
from services.local_engine.pace import Pace, Window
from services.local_engine.resumption import Resumption
from services.local_engine.seats import Seats
from services.local_engine.settings import LocalEngineSettings
from services.local_engine.spawned import standing_apart
from services.local_engine.special_tokens import SpecialTokens
from services.local_engine.support import CAPABILITIES, EMBEDDING, unsupported
from services.local_engine.tokenization import Tokenization
from services.local_engine.vllm_adapters import VllmAdapters
from services.local_engine.vllm_arguments import engine_arguments, pooling
from services.local_engine.vllm_embedder import VllmEmbedder
from services.local_engine.vllm_images import VllmImages
from services.local_engine.vllm_parsers import Parsers
from services.local_engine.vllm_reports import Reports
from spillway import v1
from spillway.errors import TargetDown
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.settings import SettingsError
from spillway.telemetry.tracing import inject

log = get_logger(__name__)

WHOLE = 1 << 30
"""A stream interval no answer reaches: vLLM then hands over the first token, and the rest when it is over."""
LOOK_EVERY_S = 0.25
BACKGROUND = 1
"""vLLM computes answers of a lower number first, and takes the place of one with a higher if there is no other."""
SHUTDOWN_S = 3.0


class VllmBackend:
    """A loaded model in vLLM."""

    def __init__(
        self, llm: AsyncLLM, reports: Reports, settings: LocalEngineSettings, release: Callable[[], None]
    ) -> None:
        self._llm = llm
        self._reports = reports
        self._release = release
        self._idle_s = settings.idle_s
        self._max_tokens = settings.max_tokens
        self._traced = settings.telemetry.otlp_endpoint is not None
        self._defaults: Mapping[str, Any] = llm.model_config.get_diff_sampling_param()
        self._numbers = itertools.count()
        self._busy_since = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "prompts")
        self._vocabulary = int(llm.model_config.get_vocab_size())
        # Of all prompt tokens of a step at once; vLLM's newer runner computes a few at a time.
        batched = llm.vllm_config.scheduler_config.max_num_batched_tokens
        self._at_once = 0 if llm.vllm_config.use_v2_model_runner else batched
        self._frame = frame(llm.get_tokenizer(), settings.vllm.fill_in_the_middle)
        self._images = VllmImages.of(llm, settings.vllm.images)
        form = None if self._images is None else self._images.form
        special = SpecialTokens.of(llm.get_tokenizer()) if settings.vllm.split_special_tokens else None
        self._prompts = Tokenization(llm.get_tokenizer(), self._thread, self._vocabulary, self._frame, form, special)
        self.adapters = VllmAdapters(llm) if settings.vllm.adapters is not None else None
        named = settings.vllm.tool_parser or settings.vllm.reasoning_parser
        self._parsers = Parsers(settings.vllm, llm.model_config, self._prompts.tokenizer) if named else None
        self.capabilities = (
            *CAPABILITIES,
            *((v1.CAPABILITY_ADAPTERS,) if self.adapters is not None else ()),
            *((v1.CAPABILITY_SUFFIX,) if self._frame is not None else ()),
            *((v1.CAPABILITY_IMAGES,) if self._images is not None else ()),
            *(self._parsers.capabilities if self._parsers is not None else ()),
        )
        self._penalties = bool(llm.model_config.logits_processors)
        self._seats = Seats(llm.vllm_config.scheduler_config.max_num_seqs, settings.vllm.interactive_share)
        self.context_window = int(llm.model_config.max_model_len)
        self._embedder: VllmEmbedder | None = None
        if llm.model_config.runner_type == "pooling":
            self.capabilities = EMBEDDING
            self._embedder = VllmEmbedder(llm, self._prompts.encoded, self._seats, self._trace)
        ends = llm.model_config.try_get_generation_config().get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        self._eos = frozenset(end for end in (self._prompts.tokenizer.eos_token_id, *ends) if end is not None)

    @classmethod
    def opened(
        cls, settings: LocalEngineSettings, abandoned: threading.Event, release: Callable[[], None]
    ) -> VllmBackend:
        """Load the model; takes seconds to minutes. Raises SettingsError where it cannot be loaded."""
        vllm_parsers.require(settings.vllm)
        reports = Reports()
        try:
            cpu = current_platform.is_cpu()
            arguments = engine_arguments(settings, cpu=cpu)
            vllm_version.accept(arguments, AsyncEngineArgs, vllm.__version__)
            model = AsyncEngineArgs(**arguments).create_model_config()
            if model.runner_type == "pooling":
                if model.convert_type == "classify":
                    raise SettingsError("it scores texts, and neither generates nor embeds")
                arguments = pooling(arguments, int(model.max_model_len))
            if cpu:
                environment.compute_on_cpu(settings.vllm, len(os.sched_getaffinity(0)), os.environ)
            if arguments["enforce_eager"]:
                environment.compile_nothing(os.environ)
            if abandoned.is_set():
                raise SettingsError("nobody waits for the engine any more")
            with standing_apart():
                llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[reports.logger])
        except SettingsError:
            raise
        except Exception as error:
            if not abandoned.is_set():
                log.error("engine.not_loaded", exc_info=error)
            raise SettingsError(
                f"local_engine.model: {settings.model}: vLLM cannot serve it: {_said(error)}"
            ) from error
        try:
            return cls(llm, reports, settings, release)
        except Exception as error:  # of what only the loaded model's tokenizer and processor tell
            llm.shutdown(SHUTDOWN_S)
            if isinstance(error, SettingsError):
                raise
            log.error("engine.not_loaded", exc_info=error)
            raise SettingsError(f"local_engine.model: {settings.model}: it cannot be served: {_said(error)}") from error

    async def generate(
        self, spec: v1.GenerationSpec, call: Call, *, window: Window, whole: bool
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        began = time.monotonic()
        if spec.HasField("continuation"):
            resumption.require(spec)
        prompted = await self._prompt(spec)
        ids: list[int] = prompted["prompt_token_ids"]
        if spec.logprobs.HasField("prompt") and not spec.continuation.token_ids:
            prompt.tellable(len(ids), spec.logprobs.prompt, at_once=self._at_once, vocabulary=self._vocabulary)
        room = prompt.room(len(ids), self.context_window, spec.WhichOneof("input"))
        ends = self._frame.ends if self._frame is not None and spec.text.HasField("suffix") else frozenset[int]()
        how = decoding(spec, room=room, max_tokens=self._max_tokens, defaults=self._defaults, ends=ends)
        reading = None if self._parsers is None else self._parsers.reading(spec, ids, whole=whole)
        structure = await self._structure(how.guide)
        if reading is not None:
            resumption.require_plain(spec)
            free, how = how, reading.held(how, structure)
            if how.guide != free.guide:
                structure = await self._structure(how.guide)
        answer = Answer(spec, how.guide, reading)
        resumed: Resumption | None = None
        if spec.continuation.token_ids:
            resumed = self._resumption(spec, ids)
            if (rest := resumed.ended(spec, self._eos | ends, how.arguments["max_tokens"])) is not None:
                for event in answer.told(rest, prompt_tokens=len(ids)):
                    yield event
                return
            how = resumption.continued(how, spec.continuation.token_ids, penalties=self._penalties)
        background = spec.priority == v1.PRIORITY_BACKGROUND
        if not self._llm.get_num_unfinished_requests():
            self._busy_since = time.monotonic()
        prompted = {**prompted, "prompt_token_ids": [*ids, *spec.continuation.token_ids]}
        name = f"{call.request_id}/{next(self._numbers)}"
        pace = self._reports.paces[name] = Pace(window)
        first_token_at: float | None = None
        over = False
        try:
            parameters = _parameters(how, structure, whole=whole)
            told: dict[str, Any] = {
                "trace_headers": self._trace(call),
                "priority": BACKGROUND if background else 0,
                "lora_request": None if self.adapters is None else self.adapters.request(spec.adapter),
            }
            if how.guide is not None:
                prompted = await self._checked(name, prompted, parameters, told)
            told |= vllm_parsers.PLAIN if reading is None else reading.engine_arguments
            outputs = self._llm.generate(prompted, parameters, name, **told)
            async with self._seats.taken(background=background), aclosing(outputs):
                async for output in outputs:
                    pace.pulled()
                    if first_token_at is None:
                        first_token_at = time.monotonic()
                        yield v1.GenerationEvent(started=started(spec, ids, output.prompt_logprobs))
                    pieces = output.outputs if resumed is None else [resumed.piece(output.outputs[0])]
                    for delta in answer.deltas(pieces):
                        yield v1.GenerationEvent(delta=delta)
                    over = output.finished
                    if pieces[0].finish_reason is not None and resumed is not None:
                        break  # by a stop string that the engine does not know of
                    if not over and not whole:
                        await pace.rest()
            yield v1.GenerationEvent(finished=answer.finished())
            usage = answer.usage(len(ids))
            if output.num_cached_tokens is not None:
                usage.cached_prompt_tokens = output.num_cached_tokens
            usage.timings.CopyFrom(_timings(output.metrics, began, first_token_at))
            yield v1.GenerationEvent(usage=usage)
        except VLLMClientError as error:
            parameter = getattr(error, "parameter", None)
            why = str(error.args[0]) if error.args else "the engine refuses this request"
            raise refused(parameter, why, how, sound=_is_sound(how.guide)) from None
        except EngineDeadError:
            raise TargetDown("the engine died") from None
        finally:
            del self._reports.paces[name]
            if not over:
                await asyncio.shield(self._llm.abort(name))

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        assert self._embedder is not None, "asked of a model without CAPABILITY_EMBEDDINGS"
        if not self._llm.get_num_unfinished_requests():
            self._busy_since = time.monotonic()
        background = spec.priority == v1.PRIORITY_BACKGROUND
        return await self._embedder.embed(spec, call, alive, priority=BACKGROUND if background else 0)

    async def count_tokens(self, spec: v1.GenerationSpec) -> Count:
        if self._images is not None and has_images(spec.chat):
            return Count(len((await self._prompt(spec))["prompt_token_ids"]))
        return Count(await self._prompts.count(spec))

    def load(self, state: v1.EngineState.ValueType) -> v1.Load:
        load = self._reports.meter.load(state, self._llm.get_num_unfinished_requests())
        if load.HasField("waiting"):
            load.waiting += self._seats.waiting
        return load

    def trouble(self) -> str:
        return ""  # what is wrong with this process is wrong for good: `died` tells

    async def changed(self) -> None:
        await asyncio.Event().wait()

    async def died(self) -> str:
        while not self._llm.errored:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._silent_s() > self._idle_s and self._llm.get_num_unfinished_requests():
                await asyncio.to_thread(self._llm.shutdown, 0.0)
                return f"the engine reported nothing for {self._idle_s:g} s with work to do"
        return "the process of vLLM's engine core ended, or its output could not be read"

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._images is not None:
            self._images.close()
        await asyncio.to_thread(self._llm.shutdown, SHUTDOWN_S)
        # It shuts itself down again when it is collected, and at the interpreter's end its modules are gone by then.
        vars(self._llm)["shutdown"] = lambda timeout=None: None
        self._release()

    def _trace(self, call: Call) -> Mapping[str, str] | None:
        return (inject(call.span) or None) if self._traced else None

    async def _prompt(self, spec: v1.GenerationSpec) -> Any:
        """Return the prompt as vLLM takes it: its tokens, and the images that fill some of them."""
        ids = await self._prompts.tokens(spec)
        if self._images is None or not has_images(spec.chat):
            return tokens_input(ids)
        return await self._images.expanded(ids, spec.chat)

    async def _checked(self, name: str, prompted: Any, parameters: SamplingParams, told: Mapping[str, Any]) -> Any:
        """Return the request as vLLM's core takes it. In a thread: to check a guide may take long."""
        check = partial(self._llm.input_processor.process_inputs, name, prompted, parameters, **told)
        tasks = await self._llm.get_supported_tasks()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(check, supported_tasks=tasks))

    def _resumption(self, spec: v1.GenerationSpec, ids: list[int]) -> Resumption:
        prompt.known(spec.continuation.token_ids, self._vocabulary)
        backing = getattr(self._prompts.tokenizer, "_tokenizer", None)
        if backing is None:
            raise unsupported("spec.continuation", "this model's tokenizer cannot decode token by token")
        stream = DecodeStream(ids=ids, skip_special_tokens=True)
        return Resumption(spec, lambda token_id: stream.step(backing, token_id))

    async def _structure(self, guide: Guide | None) -> dict[str, Any]:
        """Return the guide as a field of vLLM's StructuredOutputsParams; empty if there is none."""
        if guide is None:
            return {}
        if guide.kind in ("json", "json_object"):
            schema = json_grammar.ANY_OBJECT if guide.kind == "json_object" else str(guide.value)
            # Off the event loop: a schema can be made to take long.
            loop = asyncio.get_running_loop()
            grammar = await loop.run_in_executor(self._thread, _grammar, schema)
            if grammar is not None:
                return {"grammar": grammar}
        return {guide.kind: guide.value}

    def _silent_s(self) -> float:
        return time.monotonic() - max(self._busy_since, self._reports.meter.reported_at or 0.0)

    def __repr__(self) -> str:
        return f"<VllmBackend {self.context_window} context{' errored' if self._llm.errored else ''}>"


def _parameters(how: Decoding, structure: Mapping[str, Any], *, whole: bool) -> SamplingParams:
    return SamplingParams(
        **how.arguments,
        structured_outputs=StructuredOutputsParams(**structure) if structure else None,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=WHOLE if whole else None,
        skip_clone=True,
    )


@lru_cache(512)
def _grammar(schema: str) -> str | None:
    """Return a bounded grammar for `schema`; None leaves it to vLLM, which has other libraries, or words, for it."""
    try:
        check_json_nesting(schema)
        if has_xgrammar_unsupported_json_features(json.loads(schema)):
            return None
    except (VLLMClientError, ValueError, TypeError, AttributeError):
        return None
    return json_grammar.bounded(schema)


def _is_sound(guide: Guide | None) -> bool:
    """Whether a schema is one, though no library here can hold a decoder to all of it."""
    return guide is not None and guide.kind == "json" and json_grammar.bounded(str(guide.value)) is not None


def _timings(metrics: Any, began: float, first_token_at: float | None) -> v1.Timings:
    now = time.monotonic()
    timings = v1.Timings(total_ms=(now - began) * 1000)
    if first_token_at is not None:
        timings.first_token_ms = (first_token_at - began) * 1000
    if metrics is not None and metrics.scheduled_ts:
        timings.queue_ms = max(0.0, metrics.scheduled_ts - metrics.queued_ts) * 1000
    return timings


def _said(error: Exception) -> str:
    """What of an error of vLLM's is for a user: its first line, or what pydantic counts and does not say there."""
    if isinstance(error, ValidationError):
        said = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors(include_url=False))
    else:
        said = str(error)
    return said.strip().partition("\n")[0] or type(error).__name__
