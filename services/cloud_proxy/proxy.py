"""A generation or an embedding by a provider: gate, limits, exchange, account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime

from opentelemetry.trace import SpanKind

from services.cloud_proxy import record
from services.cloud_proxy.attempt import ANSWERED, Attempt, Leaving
from services.cloud_proxy.audit import Audit
from services.cloud_proxy.charge import Charge
from services.cloud_proxy.egress import admit
from services.cloud_proxy.limits import Amounts, tokens_of
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.rationing import Rationing
from services.cloud_proxy.route import Route
from spillway import embedding, v1
from spillway.audit import OUTCOME
from spillway.coalescing import pulled, window_s
from spillway.deadline import Clock
from spillway.errors import (
    UNSUPPORTED_RPC,
    ConstraintUnsupported,
    FieldViolation,
    ModelUnknown,
    RequestInvalid,
    SpillwayError,
)
from spillway.generation import check, for_decoder, image_count, prompt_bytes
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail
from spillway.tokens import IMAGE_TOKENS

log = get_logger(__name__)

Wall = Callable[[], datetime]
"""The time of day, in UTC."""


class CloudProxy:
    """Answers by providers. Every attempt passes the gate, is reserved, and is settled and told on every exit path."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        rationing: Rationing,
        audit: Audit,
        *,
        tracing: Tracing,
        clock: Clock,
        wall: Wall,
        window: float,
    ) -> None:
        self.routes = routes
        self.rationing = rationing
        self._audit = audit
        self._wall = wall
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

    def generating(self, model: str) -> list[Route]:
        """Return the route called `model`, or all that generate where it is empty; raises as `find` does, and
        ConstraintUnsupported for one that embeds."""
        if not model:
            return [route for route in self.routes.values() if not route.embeds]
        return [self._generates(self.find(model))]

    async def generate(
        self, spec: v1.GenerationSpec, stamp: v1.PolicyStamp | None, call: Call
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        """Yield the events of one answer. Closed early, it ends the provider's work at once."""
        route, began = self.find(spec.model), self._clock()
        stamp = self._admitted(route, stamp, call)
        check(spec)
        spec = for_decoder(spec)
        self._generates(route)
        prepared = route.adapter.prepare(spec, route.model.name)
        tenant, sampling, prompt_tokens = tenant_of(stamp, call), spec.sampling, prompt_estimate(spec)
        leaving = Leaving(len(prepared.body), prompt_tokens, most_tokens(spec))
        amounts = self.rationing.ask(route, tenant, prompt_tokens, sampling)
        background = spec.priority == v1.PRIORITY_BACKGROUND
        async with self._attempt(
            route, stamp, call, began, leaving, amounts, background=background, choices=max(1, sampling.n)
        ) as (attempt, charge, call):
            exchange = attempt.exchange
            source = route.adapter.stream(prepared, call, exchange)
            window = window_s(spec.coalescing, self._window)
            async with aclosing(source), aclosing(pulled(source, window)) as merged:
                async for deltas in merged:
                    if attempt.first is None:
                        attempt.first = self._clock()
                        yield attempt.event(started=attempt.started())
                    charge.progress(self._clock())
                    for delta in deltas:
                        yield attempt.event(delta=delta)
            if attempt.first is None:  # an answer without a word
                yield attempt.event(started=attempt.started())
            yield attempt.event(finished=v1.Finished(choices=exchange.finishes))
            attempt.outcome = ANSWERED
            charge.learn()
            yield attempt.event(usage=attempt.usage(self._clock()))

    async def embed(self, spec: v1.EmbeddingSpec, stamp: v1.PolicyStamp | None, call: Call) -> v1.EmbedResponse:
        """Return a vector for every input. Cancelled, it ends the provider's work at once."""
        route, began = self.find(spec.model), self._clock()
        stamp = self._admitted(route, stamp, call)
        embedding.check(spec)
        if not route.embeds:
            raise _other_rpc("Embed", f"{route.name} generates, and embeds nothing")
        if "token_input" not in route.model.capabilities:
            for index, one in enumerate(spec.inputs):
                if one.HasField("tokens"):
                    path, what = f"spec.inputs[{index}].tokens", "this model is given text, not tokens"
                    raise ConstraintUnsupported(f"{path}: {what}", fields=[FieldViolation(path, what)])
        tokens = sum(tokens_of(embedding.input_bytes(one)) + len(one.tokens.ids) for one in spec.inputs)
        size = sum(embedding.input_bytes(one) or len(one.tokens.ids) for one in spec.inputs)
        leaving, amounts = Leaving(size, tokens, 0), Amounts(1, tokens)
        background = spec.priority == v1.PRIORITY_BACKGROUND
        async with self._attempt(route, stamp, call, began, leaving, amounts, background=background) as (
            attempt,
            _,
            call,
        ):
            response = await route.adapter.embed(spec, route.model.name, call, attempt.exchange)
            attempt.outcome = ANSWERED
            response.request_id, response.target = call.request_id, route.name
            response.model = attempt.exchange.model or route.model.name
            response.usage.CopyFrom(attempt.usage(self._clock()))
            return response

    def _generates(self, route: Route) -> Route:
        if route.embeds:
            raise _other_rpc("Generate", f"{route.name} embeds, and generates nothing")
        return route

    def _admitted(self, route: Route, stamp: v1.PolicyStamp | None, call: Call) -> v1.PolicyStamp:
        """Return the stamp under which content may go by `route`; raises PolicyBlocked, and puts it on record."""
        try:
            return admit(stamp, route)
        except SpillwayError as error:
            self._audit.told(record.refusal(route, stamp, call.request_id, error.reason, self._wall()))
            raise

    @asynccontextmanager
    async def _attempt(
        self,
        route: Route,
        stamp: v1.PolicyStamp,
        call: Call,
        began: float,
        leaving: Leaving,
        amounts: Amounts,
        *,
        background: bool,
        choices: int = 1,
    ) -> AsyncIterator[tuple[Attempt, Charge, Call]]:
        """Reserve `amounts`, and account for what the block does at the provider, whatever becomes of it.

        The call that is yielded is under the attempt's span.
        """
        provider, exchange, tenant = route.provider, Exchange(), tenant_of(stamp, call)
        charged = self.rationing.charged(
            route, amounts, exchange, call, tenant=tenant, background=background, choices=choices
        )
        async with AsyncExitStack() as stack:
            try:
                charge = await stack.enter_async_context(charged)
            except SpillwayError as error:
                held = record.refusal(route, stamp, call.request_id, error.reason, self._wall(), phase=OUTCOME)
                self._audit.told(held)
                raise
            attempt = Attempt(
                route,
                stamp,
                call.request_id,
                began=began,
                queued=self._clock(),
                leaving=leaving,
                exchange=exchange,
            )
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
            try:
                await self._audit.opened(record.intent(attempt, self._wall()))
                yield attempt, charge, call.under(span)
            except SpillwayError as error:
                attempt.outcome = error.reason
                fail(span, error.reason)
                await self.rationing.refused(route, error, exchange)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                if attempt.outcome != ANSWERED:
                    attempt.outcome = "EXPIRED" if call.deadline.passed else "CANCELLED"
                    fail(span, attempt.outcome)
                raise
            except BaseException as error:
                attempt.outcome = type(error).__name__
                fail(span, attempt.outcome)
                raise
            finally:
                attempt.tell(span, self._clock())
                self._audit.told(record.outcome(attempt, self._wall(), self._clock()))
                await charge.settle(attempt.bill().at_most, whole=attempt.outcome == ANSWERED)


def tenant_of(stamp: v1.PolicyStamp, call: Call) -> str:
    """Return whose call it is: as the router says, which knows its callers; else the key that called here."""
    return stamp.tenant or call.caller.tenant


def _other_rpc(rpc: str, said: str) -> ConstraintUnsupported:
    """The error for an rpc that is not this model's; by its metadata a router knows that another target may have it."""
    fields = [FieldViolation("spec.model", said)]
    return ConstraintUnsupported(f"{rpc}: {said}", fields=fields, metadata={UNSUPPORTED_RPC: rpc})


def prompt_estimate(spec: v1.GenerationSpec) -> int:
    """Tokens the prompt is taken for: by its UTF-8 bytes, schemas and tools included, and by its images."""
    size = prompt_bytes(spec)
    constraint = spec.constraint
    size += sum(len(text.encode()) for text in (constraint.json_schema, *constraint.schemas.values()))
    return tokens_of(size) + image_count(spec) * IMAGE_TOKENS


def most_tokens(spec: v1.GenerationSpec) -> int | None:
    """Return how many tokens all choices may have together, None if the request sets no bound."""
    sampling = spec.sampling
    return sampling.max_tokens * max(1, sampling.n) if sampling.HasField("max_tokens") else None
