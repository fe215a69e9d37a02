"""One request to a provider, from the first look to the account."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span

from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.route import Route
from services.cloud_proxy.spend import Tokens
from spillway import v1
from spillway.logs import get_logger
from spillway.telemetry import names

log = get_logger(__name__)


@dataclass(slots=True)
class Attempt:
    """One request by `route` under a router's `stamp`. Times are those of the proxy's clock, in seconds."""

    route: Route
    stamp: v1.PolicyStamp
    request_id: str
    began: float
    queued: float
    """When it had its turn."""
    first: float | None = None
    """When the first words came."""
    outcome: str = "CANCELLED"
    """ANSWERED, CANCELLED, EXPIRED, or the reason of the error that ended it."""
    sequence: int = 0
    exchange: Exchange = field(default_factory=Exchange)

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
        """Return the cost in 1e-9 USD, None while the provider has not told what was used, or for an unknown price.

        What the provider itself says that it cost is what it cost.
        """
        usage = self.exchange.usage
        if usage is not None and usage.HasField("cost_nano_usd"):
            return usage.cost_nano_usd
        if usage is None or not usage.HasField("prompt_tokens") or not usage.HasField("completion_tokens"):
            return None
        return self.route.tariff.cost_nano_usd(
            Tokens(usage.prompt_tokens, usage.completion_tokens, cached=usage.cached_prompt_tokens)
        )

    def tell(self, span: Span, now: float) -> None:
        """Account for the attempt: once, whatever became of it."""
        exchange, usage = self.exchange, self.exchange.usage
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
            target=self.route.name,
            outcome=self.outcome,
            status=exchange.status,
            provider_request_id=exchange.provider_request_id or None,
            prompt_tokens=usage.prompt_tokens if usage is not None else None,
            completion_tokens=usage.completion_tokens if usage is not None else None,
            said_bytes=exchange.said_bytes,
            cost_nano_usd=self.cost(),
            ms=round((now - self.began) * 1000, 1),
            simulated=self.route.provider.simulated,
        )
