"""What an answer costs. Pure: prices and token counts in, nano-USD out; unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from genai_prices import Usage, calc_price

NANO = Decimal(10**9)
MTOK = Decimal(10**6)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was used. `cached` is part of `prompt`, as reasoning is of `completion`: neither is counted twice."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input_usd: Decimal
    output_usd: Decimal
    cached_input_usd: Decimal


@dataclass(frozen=True, slots=True)
class Tariff:
    """How one model is priced: by its own `price`, else by the list of `provider_id`, else by the one of `base_url`."""

    model: str
    base_url: str
    provider_id: str | None = None
    price: Price | None = None

    def cost_nano_usd(self, tokens: Tokens) -> int | None:
        """Return the cost in 1e-9 USD, or None if the price is unknown."""
        cached = min(tokens.cached, tokens.prompt)
        if self.price is not None:
            usd = (
                (tokens.prompt - cached) * self.price.input_usd
                + cached * self.price.cached_input_usd
                + tokens.completion * self.price.output_usd
            ) / MTOK
        else:
            usage = Usage(input_tokens=tokens.prompt, cache_read_tokens=cached, output_tokens=tokens.completion)
            try:
                if self.provider_id is not None:
                    usd = calc_price(usage, self.model, provider_id=self.provider_id).total_price
                else:
                    usd = calc_price(usage, self.model, provider_api_url=self.base_url).total_price
            except (LookupError, ValueError):
                return None
        return int((usd * NANO).quantize(Decimal(1), ROUND_HALF_UP))
