"""A generation or an embedding by a provider: gate, limits, exchange, account."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span, SpanKind

from services.cloud_proxy.egress import admit
from services.cloud_proxy.limiter import Limiter, Reservation
from services.cloud_proxy.limits import CLOSED, NOTHING, Amounts, Limits, estimate, tokens_of
from services.cloud_proxy.provider import Exchange, Provider
from services.cloud_proxy.settings import ModelSettings, ProviderSettings
from services.cloud_proxy.spend import Tariff, Tokens
from spillway import embedding, v1
from spillway.coalescing import pulled, window_s
from spillway.deadline import Clock
from spillway.errors import (
    UNSUPPORTED_RPC,
    ConstraintUnsupported,
    FieldViolation,
    ModelUnknown,
    ProviderRateLimited,
    RequestInvalid,
    SpillwayError,
)
from spillway.generation import check, image_count, prompt_bytes
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail
from spillway.tokens import IMAGE_TOKENS

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """One model of one provider, ready to be called."""

    name: str
    provider: ProviderSettings
    model: ModelSettings
    adapter: Provider
    tariff: Tariff

    @property
    def limits(self) -> Limits:
        return Limits(self.provider.limits.requests_per_minute, self.provider.limits.tokens_per_minute)


@dataclass(slots=True)
class _Attempt:
    """One request to a provider, from the first look to the account."""

    began: float
    queued: float
    first: float | None = None
    outcome: str = "CANCELLED"
    sequence: int = 0
    exchange: Exchange = field(default_factory=Exchange)

    def event(self, **of: Any) -> v1.GenerationEvent:
        event = v1.GenerationEvent(sequence=self.sequence, **of)
        self.sequence += 1
        return event


class CloudProxy:
    """Answers by providers. Every attempt passes the gate, is reserved, and is settled and told on every exit path."""

    def __init__(
        self, routes: Mapping[str, Route], limiter: Limiter, *, tracing: Tracing, clock: Clock, window: float
    ) -> None:
        self.routes = routes
        self.limiter = limiter
        self._tracing = tracing
        self._clock = clock
        self._window = window

    def find(self, model: str) -> Route:
        """Return the route called `model` (`provider/model`), or raise ModelUnknown or RequestInvalid."""
        route = self.routes.get(model)
        if route is None:
            if not model:
                path, what = "spec.model", "is missing: the cloud proxy does not choose; name provider/model"
                raise RequestInvalid(f"{path}: {what}", fields=[FieldViolation(path, what)])
            raise ModelUnknown(f"spec.model: {model[:100]!r} is not served here", resource=model)
        return route

    async def generate(
        self, spec: v1.GenerationSpec, stamp: v1.PolicyStamp | None, call: Call
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        """Yield the events of one answer. Closed early, it ends the provider's work at once."""
        route, began = self.find(spec.model), self._clock()
        self._admit(route, stamp)
        check(spec)
        if "embeddings" in route.model.capabilities:
            raise _other_rpc("Generate", f"{route.name} embeds, and generates nothing")
        prepared = route.adapter.prepare(spec, route.model.name)
        prompt_tokens = prompt_estimate(spec)
        sampling = spec.sampling
        amounts = estimate(
            prompt_tokens=prompt_tokens,
            max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
            choices=max(1, sampling.n),
            default=route.provider.default_answer_tokens,
            limits=route.limits,
        )
        async with self._attempt(route, call, began, prompt_tokens, amounts) as (attempt, call):
            exchange = attempt.exchange
            source = route.adapter.stream(prepared, call, exchange)
            window = window_s(spec.coalescing, self._window)
            async with aclosing(source), aclosing(pulled(source, window)) as merged:
                async for deltas in merged:
                    if attempt.first is None:
                        attempt.first = self._clock()
                        yield attempt.event(started=self._started(route, call, exchange))
                    for delta in deltas:
                        yield attempt.event(delta=delta)
            if attempt.first is None:  # an answer without a word
                yield attempt.event(started=self._started(route, call, exchange))
            yield attempt.event(finished=v1.Finished(choices=exchange.finishes))
            attempt.outcome = "ANSWERED"
            yield attempt.event(usage=self._usage(route, attempt))

    async def embed(self, spec: v1.EmbeddingSpec, stamp: v1.PolicyStamp | None, call: Call) -> v1.EmbedResponse:
        """Return a vector for every input. Cancelled, it ends the provider's work at once."""
        route, began = self.find(spec.model), self._clock()
        self._admit(route, stamp)
        embedding.check(spec)
        if "embeddings" not in route.model.capabilities:
            raise _other_rpc("Embed", f"{route.name} generates, and embeds nothing")
        if "token_input" not in route.model.capabilities:
            for index, one in enumerate(spec.inputs):
                if one.HasField("tokens"):
                    path, what = f"spec.inputs[{index}].tokens", "this model is given text, not tokens"
                    raise ConstraintUnsupported(f"{path}: {what}", fields=[FieldViolation(path, what)])
        tokens = sum(tokens_of(embedding.input_bytes(one)) + len(one.tokens.ids) for one in spec.inputs)
        async with self._attempt(route, call, began, tokens, Amounts(1, tokens)) as (attempt, call):
            response = await route.adapter.embed(spec, route.model.name, call, attempt.exchange)
            attempt.outcome = "ANSWERED"
            response.request_id, response.target = call.request_id, route.name
            response.model = attempt.exchange.model or route.model.name
            response.usage.CopyFrom(self._usage(route, attempt))
            return response

    def _admit(self, route: Route, stamp: v1.PolicyStamp | None) -> None:
        provider = route.provider
        admit(stamp, provider=provider.name, region=provider.region, max_sensitivity=provider.max_sensitivity)

    @asynccontextmanager
    async def _attempt(
        self, route: Route, call: Call, began: float, prompt_tokens: int, amounts: Amounts
    ) -> AsyncIterator[tuple[_Attempt, Call]]:
        """Reserve `amounts`, and account for what the block does at the provider, whatever becomes of it.

        The call that is yielded is under the attempt's span.
        """
        provider = route.provider
        reservation = await self._reserve(route, amounts, call)
        attempt = _Attempt(began=began, queued=self._clock())
        span = self._tracing.start(
            names.PROVIDER_REQUEST,
            call.span,
            kind=SpanKind.CLIENT,
            attributes={
                names.PROVIDER: provider.name,
                names.MODEL: route.model.name,
                names.SIMULATED: provider.simulated,
                names.DEADLINE_LEFT_MS: round(call.deadline.left() * 1000),
            },
        )
        exchange = attempt.exchange
        try:
            yield attempt, call.under(span)
        except SpillwayError as error:
            attempt.outcome = error.reason
            fail(span, error.reason)
            if error.retry_after_s and exchange.status is not None:
                await self.limiter.close_provider(provider.name, min(error.retry_after_s, provider.max_closed_s))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if attempt.outcome != "ANSWERED":
                attempt.outcome = "EXPIRED" if call.deadline.passed else "CANCELLED"
                fail(span, attempt.outcome)
            raise
        except BaseException as error:
            attempt.outcome = type(error).__name__
            fail(span, attempt.outcome)
            raise
        finally:
            self._tell(route, attempt, span)
            await self.limiter.settle(reservation, _used(exchange, prompt_tokens))

    async def _reserve(self, route: Route, amounts: Amounts, call: Call) -> Reservation:
        """Take `amounts` of the provider's limits, waiting as long as the settings and the caller let."""
        id, provider = uuid.uuid4().hex, route.provider
        until = self._clock() + min(provider.max_wait_s, call.line_s)
        while True:
            decision, reservation = await self.limiter.reserve(id, provider.name, route.limits, amounts)
            if reservation is not None:
                return reservation
            wait = decision.wait_s
            if wait is None or self._clock() + wait > until:
                told = "it asked to be left alone" if decision.limit == CLOSED else f"its {decision.limit} are used up"
                if wait is None:
                    told = f"the request alone is more than its {decision.limit}"
                raise ProviderRateLimited(
                    f"{provider.name}: {told}",
                    retry_after_s=wait,
                    resource=provider.name,
                    metadata={"provider": provider.name, "limit": decision.limit},
                )
            await asyncio.sleep(wait)

    def _started(self, route: Route, call: Call, exchange: Exchange) -> v1.Started:
        return v1.Started(request_id=call.request_id, model=exchange.model or route.model.name, target=route.name)

    def _usage(self, route: Route, attempt: _Attempt) -> v1.Usage:
        usage = v1.Usage()
        if attempt.exchange.usage is not None:
            usage.CopyFrom(attempt.exchange.usage)
        if (cost := _cost(route, usage)) is not None:
            usage.cost_nano_usd = cost
        timings = usage.timings
        timings.total_ms = (self._clock() - attempt.began) * 1000
        timings.queue_ms = (attempt.queued - attempt.began) * 1000
        if attempt.first is not None:
            timings.first_token_ms = (attempt.first - attempt.began) * 1000
        return usage

    def _tell(self, route: Route, attempt: _Attempt, span: Span) -> None:
        """Account for the attempt: once, whatever became of it."""
        exchange, usage = attempt.exchange, attempt.exchange.usage
        if span.is_recording():
            if exchange.model:
                span.set_attribute(names.ANSWERED_BY, exchange.model)
            if exchange.status is not None:
                span.set_attribute(names.HTTP_STATUS, exchange.status)
            if usage is not None and usage.HasField("prompt_tokens"):
                span.set_attribute(names.INPUT_TOKENS, usage.prompt_tokens)
            if usage is not None and usage.HasField("completion_tokens"):
                span.set_attribute(names.OUTPUT_TOKENS, usage.completion_tokens)
        span.end()
        log.info(
            "provider.request",
            target=route.name,
            outcome=attempt.outcome,
            status=exchange.status,
            provider_request_id=exchange.provider_request_id or None,
            prompt_tokens=usage.prompt_tokens if usage is not None else None,
            completion_tokens=usage.completion_tokens if usage is not None else None,
            said_bytes=exchange.said_bytes,
            cost_nano_usd=_cost(route, usage) if usage is not None else None,
            duration_ms=round((self._clock() - attempt.began) * 1000, 1),
            simulated=route.provider.simulated,
        )


def _other_rpc(rpc: str, said: str) -> ConstraintUnsupported:
    """The error for an rpc that is not this model's; by its metadata a router knows that another target may have it."""
    fields = [FieldViolation("spec.model", said)]
    return ConstraintUnsupported(f"{rpc}: {said}", fields=fields, metadata={UNSUPPORTED_RPC: rpc})


def prompt_estimate(spec: v1.GenerationSpec) -> int:
    """Tokens the prompt is taken for: by its UTF-8 bytes, schemas and tools included, and by its images."""
    size = prompt_bytes(spec)
    size += sum(len(tool.name) + len(tool.description) + len(tool.parameters_json_schema) for tool in spec.tools)
    size += len(spec.constraint.json_schema)
    return tokens_of(size) + image_count(spec) * IMAGE_TOKENS


def _used(exchange: Exchange, prompt_tokens: int) -> Amounts:
    """What a call has used of the limits, as well as it can be known."""
    if not exchange.sent:
        return NOTHING
    if exchange.status is not None and exchange.status != 200:
        return Amounts(1, 0)
    usage = exchange.usage
    if usage is not None and usage.HasField("prompt_tokens") and usage.HasField("completion_tokens"):
        return Amounts(1, usage.prompt_tokens + usage.completion_tokens)
    return Amounts(1, prompt_tokens + tokens_of(exchange.said_bytes))


def _cost(route: Route, usage: v1.Usage) -> int | None:
    if not usage.HasField("prompt_tokens") or not usage.HasField("completion_tokens"):
        return None
    return route.tariff.cost_nano_usd(
        Tokens(usage.prompt_tokens, usage.completion_tokens, cached=usage.cached_prompt_tokens)
    )
