"""What an answer costs. Pure: prices and token counts in, nano-USD out; unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, TieredPrices

NANO = Decimal(10**9)
MTOK = Decimal(10**6)
PRICE_LIST = f"genai-prices {genai_prices.__version__}"
SETTINGS = "settings"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was used. `cached` and `written` (into a cache) are parts of `prompt`, `reasoning` is one of `completion`:
    none is counted twice."""

    prompt: int
    completion: int
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    def within(self) -> Tokens:
        """The same with no part larger than its whole."""
        cached = min(self.cached, self.prompt)
        written = min(self.written, self.prompt - cached)
        return Tokens(self.prompt, self.completion, cached, written, min(self.reasoning, self.completion))


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. Of more prompt tokens than `above[0]`, all of the call is at the price `above[1]`."""

    input_usd: Decimal
    output_usd: Decimal
    cached_input_usd: Decimal
    cache_write_usd: Decimal
    reasoning_usd: Decimal | None = None
    """None: as other output."""
    call_usd: Decimal = Decimal(0)
    """For the call itself, in USD."""
    above: tuple[int, Price] | None = None

    def usd(self, tokens: Tokens) -> Decimal:
        """Return what a call of `tokens`, within bounds, costs in USD, exactly."""
        if self.above is not None and tokens.prompt > self.above[0]:
            return self.above[1].usd(tokens)
        reasoning_usd = self.output_usd if self.reasoning_usd is None else self.reasoning_usd
        return (
            self.call_usd
            + (
                (tokens.prompt - tokens.cached - tokens.written) * self.input_usd
                + tokens.cached * self.cached_input_usd
                + tokens.written * self.cache_write_usd
                + (tokens.completion - tokens.reasoning) * self.output_usd
                + tokens.reasoning * reasoning_usd
            )
            / MTOK
        )


@dataclass(frozen=True, slots=True)
class Tariff:
    """How one model is priced: by its own `price`, else by the list of `provider_id`, else by the one of `base_url`."""

    model: str
    base_url: str
    provider_id: str | None = None
    price: Price | None = None
    as_of: date | None = None
    """Day on which `price` was known to hold."""

    def cost_nano_usd(self, tokens: Tokens, at: datetime | None = None) -> int | None:
        """Return the cost in 1e-9 USD of a call made `at` (None: now), or None if the price is unknown.

        Rounded once, half up: amounts are whole nano-USD from here on.
        """
        price = self.price or self.listed(at)
        if price is None:
            return None
        return int((price.usd(tokens.within()) * NANO).quantize(Decimal(1), ROUND_HALF_UP))

    @property
    def source(self) -> str:
        """Where the price comes from; empty where it is unknown."""
        if self.price is not None:
            return SETTINGS
        return PRICE_LIST if self.listed() is not None else ""

    def listed(self, at: datetime | None = None) -> Price | None:
        """Return the price on the list for a call made `at` (None: now); None if it has none for tokens.

        Read off the list as `genai_prices.calc_price` reads it, which takes 0.3 ms a call to look the same up again.
        """
        url = None if self.provider_id is not None else self.base_url
        try:
            _, model = get_snapshot().find_provider_model(self.model, None, self.provider_id, url)
        except LookupError:
            return None
        found = model.get_prices(at or datetime.now(UTC))
        return None if found.input_mtok is None and found.output_mtok is None else _read(found)


def _read(found: ModelPrice) -> Price:
    units = [price for price in vars(found).values() if isinstance(price, TieredPrices)]
    price = _tier(found, -1)
    for start in sorted({tier.start for unit in units for tier in unit.tiers}):
        price = _under(price, (start, _tier(found, start)))
    return price


def _under(price: Price, above: tuple[int, Price]) -> Price:
    """`price` with one more tier on top."""
    inner = above if price.above is None else (price.above[0], _under(price.above[1], above))
    return replace(price, above=inner)


def _tier(found: ModelPrice, start: int) -> Price:
    """The prices of a call of more than `start` prompt tokens. A kind of token without a price has its kin's."""

    def of(unit: str, otherwise: Decimal) -> Decimal:
        price = getattr(found, unit)
        if isinstance(price, TieredPrices):
            tiers = [tier.price for tier in price.tiers if tier.start <= start]
            return tiers[-1] if tiers else price.base
        return otherwise if price is None else price

    usual, output = of("input_mtok", Decimal(0)), of("output_mtok", Decimal(0))
    return Price(
        usual,
        output,
        of("cache_read_mtok", usual),
        of("cache_write_mtok", usual),
        of("output_reasoning_mtok", output),
        of("requests_kcount", Decimal(0)) / 1000,
    )
