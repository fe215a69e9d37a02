"""A fake engine: a real gRPC server of `InferenceService` whose answers, pace and faults are scripted."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, MutableSequence, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from spillway import embedding, load, v1
from spillway.coalescing import pulled, window_end, window_s
from spillway.deadline import Deadline
from spillway.errors import UNSUPPORTED_RPC, ConstraintUnsupported, ModelUnknown, SpillwayError, TargetDown
from spillway.generation import Folder, check
from spillway.rpc import metadata
from spillway.rpc.call import Call, current_call
from spillway.rpc.server import Server, Service
from spillway.session.server import Sessions, at_once
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.faults import Cut, Fault, Garbage, Refuse, Script, Silence, SlowFirst, Stall
from spillway.testing.server import LOOPBACK, serving
from spillway.testing.steps import Steps
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc

CAPABILITIES = (
    v1.CAPABILITY_JSON_SCHEMA,
    v1.CAPABILITY_JSON_OBJECT,
    v1.CAPABILITY_REGEX,
    v1.CAPABILITY_CHOICES,
    v1.CAPABILITY_LOGPROBS,
    v1.CAPABILITY_TEXT_INPUT,
    v1.CAPABILITY_TOKEN_INPUT,
    v1.CAPABILITY_PREFILL,
)
EMBEDDING = (v1.CAPABILITY_EMBEDDINGS, v1.CAPABILITY_TOKEN_INPUT)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request the engine got, with its call."""

    request: v1.GenerateRequest | v1.StreamGenerateRequest
    call: Call
    deadline: Deadline


@dataclass(slots=True)
class FakeEngine:
    """Answers with the words of `answer(spec)`, one token a word, `interval_s` seconds apart.

    An answer is continued after the tokens that a request says are there already, or after their text.
    Tokens that have come due when the caller pulls are merged into one delta, as a real engine's collector does.
    `running` counts generations in flight, `finished`, `failed` and `cancelled` those that ended so; `seen` keeps what
    was asked, `embeds` what was to be embedded.
    """

    model: str = "fake"
    answer: Callable[[v1.GenerationSpec], str] = field(default=lambda spec: "one two three four five")
    interval_s: float = 0.0
    steps: Steps | None = None
    """Paces all answers together, in place of `interval_s`: a window is then a whole number of steps."""
    first_s: float = 0.0
    window_s: float = 0.0
    context_window: int = 4096
    probability: float | None = None
    """Of every token, told where log probabilities are asked for; None: not told."""
    takes_prefill: bool = True
    """An answer that another model began is continued after its text; else `answer` says all that is said."""
    vector: Callable[[v1.EmbeddingInput], Sequence[float]] | None = None
    """Makes the vector of an input: the engine then embeds, and generates nothing."""
    faults: Script = field(default_factory=Script)
    seen: MutableSequence[Seen] = field(default_factory=list)
    embeds: list[v1.EmbedRequest] = field(default_factory=list)
    others: int = 0
    """Generations that the load tells of besides those in flight here."""
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0

    async def generate(self, request: Any, call: Call) -> AsyncGenerator[v1.GenerationEvent, None]:
        """The events of one answer, faults included."""
        spec: v1.GenerationSpec = request.spec
        self.seen.append(Seen(request, call, call.deadline))
        self.admit(spec)
        if self.vector is not None:
            raise _other_rpc("Generate")
        fault = self.faults.next()
        with self._counted():
            async with aclosing(self._events(spec, call, fault)) as events:
                sequence = 0
                async for event in events:
                    event.sequence = sequence
                    sequence += 1
                    yield event

    async def embed(self, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """A vector for every input, faults included: `Cut` loses the last ones."""
        spec = request.spec
        self.embeds.append(request)
        embedding.check(spec)
        self._admit_model(spec.model)
        if self.vector is None:
            raise _other_rpc("Embed")
        fault = self.faults.next()
        with self._counted():
            if isinstance(fault, Refuse):
                raise fault.error
            if isinstance(fault, Silence):
                await asyncio.Event().wait()
            await asyncio.sleep(self.first_s + (fault.seconds if isinstance(fault, SlowFirst) else 0))
            inputs = spec.inputs[: fault.after] if isinstance(fault, Cut) else spec.inputs
            vectors = [v1.Embedding(values=self.vector(one)) for one in inputs]
            tokens = sum(len(words(one.text)) + len(one.tokens.ids) for one in spec.inputs)
            usage = v1.Usage(prompt_tokens=tokens, completion_tokens=0)
            return v1.EmbedResponse(
                request_id=call.request_id, model=self.model, target=self.model, embeddings=vectors, usage=usage
            )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
            self.finished += 1
        except SpillwayError:
            self.failed += 1
            raise
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def load(self) -> v1.Load:
        """The load now; `others` are running besides what was asked here."""
        return v1.Load(state=v1.ENGINE_STATE_SERVING, running=self.running + self.others, waiting=0, age_ms=0)

    def admit(self, spec: v1.GenerationSpec) -> None:
        """Raise RequestInvalid, SchemaInvalid or ModelUnknown for what this engine does not serve."""
        check(spec)
        self._admit_model(spec.model)

    def _admit_model(self, model: str) -> None:
        if model not in ("", self.model):
            raise ModelUnknown(f"spec.model: {model!r} is not served here", resource=model)

    async def _events(
        self, spec: v1.GenerationSpec, call: Call, fault: Fault | None
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        if isinstance(fault, Refuse):
            raise fault.error
        if isinstance(fault, Silence):
            await asyncio.Event().wait()
        text = fault.text if isinstance(fault, Garbage) else self.answer(spec)
        if self.takes_prefill and not spec.continuation.token_ids:
            text = text.removeprefix(spec.continuation.text)
        tokens = words(text)
        limited = spec.sampling.HasField("max_tokens") and len(tokens) > spec.sampling.max_tokens
        if limited:
            tokens = tokens[: spec.sampling.max_tokens]
        await asyncio.sleep(self.first_s + (fault.seconds if isinstance(fault, SlowFirst) else 0))
        prompt_tokens, done = count(spec), len(spec.continuation.token_ids)
        started = v1.GenerationEvent(
            started=v1.Started(
                request_id=call.request_id, model=self.model, target=self.model, prompt_tokens=prompt_tokens
            )
        )
        if self.probability is not None and spec.logprobs.HasField("prompt"):
            told = v1.TokenLogprob(logprob=math.log(self.probability))
            started.started.prompt_logprobs.extend([told] * (prompt_tokens - 1))
        window = window_s(spec.coalescing, self.window_s)
        if self.steps is None:
            pieces = pulled(self._due(done, len(tokens), fault), window)
        else:
            pieces = self._due(done, len(tokens), fault, max(1, round(window / self.steps.interval_s)))
        async with aclosing(pieces) as due:
            async for first, last in due:
                if first == done:
                    yield started
                ids = range(first, last) if last - first < 1000 else ()
                delta = v1.Delta(text="".join(tokens[first:last]), tokens=last - first, token_ids=ids)
                if self.probability is not None and spec.HasField("logprobs"):
                    logprob = math.log(self.probability)
                    delta.logprobs.extend(v1.TokenLogprob(token=token, logprob=logprob) for token in tokens[first:last])
                yield v1.GenerationEvent(delta=delta)
        if len(tokens) <= done:
            yield started
        reason = v1.FINISH_REASON_LENGTH if limited else v1.FINISH_REASON_STOP
        yield v1.GenerationEvent(finished=v1.Finished(choices=[v1.ChoiceFinish(reason=reason)]))
        yield v1.GenerationEvent(
            usage=v1.Usage(prompt_tokens=prompt_tokens, completion_tokens=max(0, len(tokens) - done))
        )

    async def _due(
        self, done: int, total: int, fault: Fault | None, merged: int = 1
    ) -> AsyncGenerator[tuple[int, int], None]:
        """Yield (first, last) of the tokens after the `done` ones that have come due since the last pull.

        In steps `merged` of them are waited for, but for the first, which is never held.
        """
        clock, steps = asyncio.get_running_loop().time, self.steps
        began, sent = clock() - done * self.interval_s, done
        before = steps.taken - done if steps is not None else 0
        while True:
            if isinstance(fault, Cut) and sent >= fault.after:
                raise TargetDown("the engine dropped the connection (scripted)")
            if isinstance(fault, Stall) and sent >= fault.after:
                await asyncio.Event().wait()
            if sent >= total:
                return
            if steps is not None:
                wanted = round(window_end(before + sent, merged)) if sent > done else before + sent + 1
                await steps.reach(min(before + total, wanted))
                due = steps.taken - before
            elif self.interval_s:
                due = int((clock() - began) / self.interval_s) + 1
                if due <= sent:
                    await asyncio.sleep(began + sent * self.interval_s - clock())
                    continue
            else:
                due = sent + 1
            if isinstance(fault, Cut | Stall):
                due = min(due, fault.after)
            yield sent, min(due, total)
            sent = min(due, total)


class Servicer(inference_pb2_grpc.InferenceServiceServicer, engine_pb2_grpc.EngineTelemetryServiceServicer):
    """The fake engine's rpcs."""

    def __init__(self, engine: FakeEngine, sessions: Sessions) -> None:
        self._engine = engine
        self._sessions = sessions

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        folder = Folder()
        async with aclosing(self._engine.generate(request, current_call())) as events:
            async for event in events:
                if event.WhichOneof("event") == "started":
                    await context.send_initial_metadata(metadata.ALIVE)
                folder.add(event)
        return folder.whole()

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        async with aclosing(self._engine.generate(request, current_call())) as events:
            async for event in events:
                yield v1.StreamGenerateResponse(event=event)

    def Session(self, requests: AsyncIterator[v1.SessionRequest], context: Any) -> Any:
        return self._sessions.serve(requests)

    async def Embed(self, request: v1.EmbedRequest, context: Any) -> v1.EmbedResponse:
        return await self._engine.embed(request, current_call())

    async def CountTokens(self, request: v1.CountTokensRequest, context: Any) -> v1.CountTokensResponse:
        self._engine.admit(request.spec)
        return v1.CountTokensResponse(tokens=count(request.spec), exact=True, model=self._engine.model)

    async def ListModels(self, request: v1.ListModelsRequest, context: Any) -> v1.ListModelsResponse:
        engine = self._engine
        return v1.ListModelsResponse(
            models=[
                v1.Model(
                    name=engine.model,
                    target=engine.model,
                    kind=v1.TARGET_KIND_LOCAL,
                    context_window=engine.context_window,
                    capabilities=CAPABILITIES if engine.vector is None else EMBEDDING,
                )
            ]
        )

    async def GetLoad(self, request: v1.GetLoadRequest, context: Any) -> v1.GetLoadResponse:
        return v1.GetLoadResponse(load=self._engine.load())

    def WatchLoad(self, request: v1.WatchLoadRequest, context: Any) -> AsyncIterator[v1.WatchLoadResponse]:
        return load.watch(request, self._engine.load)


def services(
    engine: FakeEngine, *, settings: ServerSettings = LOOPBACK, tracing: Tracing | None = None
) -> list[Service]:
    """What a server with `settings` needs to serve `engine`."""
    sessions = Sessions(at_once(engine.generate), settings, tracing=tracing or Tracing("fake engine"))
    servicer = Servicer(engine, sessions)
    return [
        Service(
            "spillway.v1.InferenceService",
            servicer,
            inference_pb2_grpc.add_InferenceServiceServicer_to_server,
            sessions,
        ),
        Service(
            "spillway.v1.EngineTelemetryService", servicer, engine_pb2_grpc.add_EngineTelemetryServiceServicer_to_server
        ),
    ]


@asynccontextmanager
async def serving_engine(engine: FakeEngine) -> AsyncIterator[Server]:
    """Serve `engine` on a free port for the block."""
    async with serving(*services(engine)) as server:
        yield server


def _other_rpc(rpc: str) -> ConstraintUnsupported:
    return ConstraintUnsupported(f"{rpc} is not served here", metadata={UNSUPPORTED_RPC: rpc})


def words(text: str) -> list[str]:
    """Split `text` into tokens: words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def count(spec: v1.GenerationSpec) -> int:
    """Tokens of the prompt, as this engine counts."""
    match spec.WhichOneof("input"):
        case "tokens":
            return len(spec.tokens.ids)
        case "text":
            return len(words(spec.text.text))
        case _:
            return sum(len(words(part.text)) for message in spec.chat.messages for part in message.parts)
