"""One request to a provider, from the first look to the account."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span

from services.cloud_proxy.billing import Bill, Seen, bill
from services.cloud_proxy.limits import tokens_of
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.route import Route
from services.cloud_proxy.spend import Tokens
from spillway import v1
from spillway.logs import get_logger
from spillway.telemetry import names

log = get_logger(__name__)

ANSWERED = "ANSWERED"
NOTHING = Bill(0, 0)


@dataclass(frozen=True, slots=True)
class Leaving:
    """What is to leave the site, and what may come back."""

    size: int
    """Bytes."""
    prompt_tokens: int
    """Estimated, before the provider has counted."""
    bound: int | None
    """Most tokens the answer may have; None: the request sets no bound."""


@dataclass(slots=True)
class Attempt:
    """One request by `route` under a router's `stamp`. Times are those of the proxy's clock, in seconds."""

    route: Route
    stamp: v1.PolicyStamp
    request_id: str
    began: float
    queued: float
    """When it had its turn."""
    leaving: Leaving
    first: float | None = None
    """When the first words came."""
    outcome: str = "CANCELLED"
    """ANSWERED, CANCELLED, EXPIRED, or the reason of the error that ended it."""
    sequence: int = 0
    exchange: Exchange = field(default_factory=Exchange)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names it in the audit trail."""

    def event(self, **of: Any) -> v1.GenerationEvent:
        """Return the next event of the answer."""
        event = v1.GenerationEvent(sequence=self.sequence, **of)
        self.sequence += 1
        return event

    def started(self) -> v1.Started:
        return v1.Started(
            request_id=self.request_id,
            model=self.exchange.model or self.route.model.name,
            target=self.route.name,
        )

    def usage(self, now: float) -> v1.Usage:
        """Return what the answer took, as the provider counted."""
        usage = v1.Usage()
        if self.exchange.usage is not None:
            usage.CopyFrom(self.exchange.usage)
        if (cost := self.cost()) is not None:
            usage.cost_nano_usd = cost
        timings = usage.timings
        timings.total_ms = (now - self.began) * 1000
        timings.queue_ms = (self.queued - self.began) * 1000
        if self.first is not None:
            timings.first_token_ms = (self.first - self.began) * 1000
        return usage

    def cost(self) -> int | None:
        """Return the cost of a whole answer in 1e-9 USD; None for any other, while the provider has not told what was
        used, and for an unknown price. What the provider itself says that it cost is what it cost."""
        usage = self.exchange.usage
        if self.outcome != ANSWERED or usage is None:
            return None
        if usage.HasField("cost_nano_usd"):
            return usage.cost_nano_usd
        if not usage.HasField("prompt_tokens") or not usage.HasField("completion_tokens"):
            return None
        return self.route.tariff.cost_nano_usd(
            Tokens(
                usage.prompt_tokens,
                usage.completion_tokens,
                cached=usage.cached_prompt_tokens,
                written=usage.cache_write_prompt_tokens,
                reasoning=usage.reasoning_tokens,
            )
        )

    def seen(self) -> Seen:
        """Return what is known of the answer: the provider's word as far as it came, else our own count."""
        usage = self.exchange.usage or v1.Usage()
        prompt = usage.prompt_tokens if usage.HasField("prompt_tokens") else self.leaving.prompt_tokens
        return Seen(
            prompt=prompt,
            completion=max(usage.completion_tokens, tokens_of(self.exchange.said_bytes)),
            bound=self.leaving.bound,
            cached=usage.cached_prompt_tokens,
            written=usage.cache_write_prompt_tokens,
        )

    def bill(self) -> Bill:
        """Return what the provider bills, as well as it can be known of an answer that is not whole."""
        exchange = self.exchange
        if self.outcome == ANSWERED and (cost := self.cost()) is not None:
            return Bill(cost, cost)
        if not exchange.sent or exchange.status not in (None, 200):
            return NOTHING
        return bill(self.route.tariff, self.seen(), self.route.billing_on_cancel)

    def tell(self, span: Span, now: float) -> None:
        """Account for the attempt: once, whatever became of it."""
        exchange, usage, billed = self.exchange, self.exchange.usage, self.bill()
        whole = self.outcome == ANSWERED
        if span.is_recording():
            if exchange.model:
                span.set_attribute(names.ANSWERED_BY, exchange.model)
            if exchange.status is not None:
                span.set_attribute(names.HTTP_STATUS, exchange.status)
            if usage is not None and usage.HasField("prompt_tokens"):
                span.set_attribute(names.INPUT_TOKENS, usage.prompt_tokens)
            if usage is not None and usage.HasField("completion_tokens"):
                span.set_attribute(names.OUTPUT_TOKENS, usage.completion_tokens)
            if billed.counted is not None:
                span.set_attribute(names.COST, billed.counted)
            if billed.at_most is not None and not whole:
                span.set_attribute(names.BILLED_AT_MOST, billed.at_most)
        span.end()
        log.info(
            "provider.request",
            target=self.route.name,
            outcome=self.outcome,
            status=exchange.status,
            provider_request_id=exchange.provider_request_id or None,
            prompt_tokens=usage.prompt_tokens if usage is not None else None,
            completion_tokens=usage.completion_tokens if usage is not None else None,
            said_bytes=exchange.said_bytes,
            cost_nano_usd=self.cost(),
            **({} if whole else {"counted_nano_usd": billed.counted, "billed_at_most_nano_usd": billed.at_most}),
            ms=round((now - self.began) * 1000, 1),
            simulated=self.route.provider.simulated,
        )
