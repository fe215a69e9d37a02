"""What a call counts for when it ends."""

from __future__ import annotations

from typing import cast

import pytest

from services.cloud_proxy.charge import Charge
from services.cloud_proxy.expectation import Expectation
from services.cloud_proxy.limiter import Limiter, Reservation
from services.cloud_proxy.limits import NOTHING, Amounts
from services.cloud_proxy.provider import Exchange, Provider
from services.cloud_proxy.route import Route
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.spend import Tariff
from spillway import v1

SETTINGS = ProviderSettings.model_validate(
    {"name": "anthropic", "kind": "anthropic", "region": "us", "models": [{"name": "claude-haiku-4-5"}]}
)
MODEL = SETTINGS.models[0]
ROUTE = Route("a/m", SETTINGS, MODEL, cast("Provider", None), Tariff(MODEL.name, SETTINGS.base_url))

RESERVED = Amounts(1, 100, 50, 350_000)


class Settled:
    """A limiter that remembers what it was told last."""

    used = NOTHING

    async def settle(self, reservation: Reservation, used: Amounts, news: object, *, late_s: float) -> None:
        self.used = used


async def used(exchange: Exchange, cost: int | None, *, whole: bool) -> Amounts:
    """What a call counts for that RESERVED was reserved for."""
    limiter = Settled()
    reservation = Reservation("r", "anthropic", (), RESERVED, RESERVED, 0)
    charge = Charge(
        cast("Limiter", limiter), Expectation(), ROUTE, "t", reservation, exchange, 100, 1, priced=True, began=0
    )
    await charge.settle(cost, whole=whole)
    return limiter.used


def answered(*, said: int, usage: v1.Usage | None = None) -> Exchange:
    return Exchange(sent=True, status=200, said_bytes=said, usage=usage)


async def test_what_was_told_at_the_beginning_is_less_than_what_has_been_said_since() -> None:
    exchange = answered(said=300, usage=v1.Usage(prompt_tokens=80, completion_tokens=1))
    assert await used(exchange, 7, whole=False) == Amounts(1, 80, 100, 7)


async def test_a_whole_answer_counts_as_the_provider_counted() -> None:
    exchange = answered(said=300, usage=v1.Usage(prompt_tokens=80, completion_tokens=60))
    assert await used(exchange, 7, whole=True) == Amounts(1, 80, 60, 7)


async def test_money_that_nothing_bounds_is_not_given_back() -> None:
    assert await used(answered(said=30), None, whole=False) == Amounts(1, 100, 10, 350_000)
    assert (await used(answered(said=300), None, whole=False)).nano_usd == 100 * 1000 + 100 * 5000


async def test_a_whole_answer_without_a_count_costs_what_was_seen_of_it() -> None:
    assert await used(answered(said=30), None, whole=True) == Amounts(1, 100, 10, 100 * 1000 + 10 * 5000)


@pytest.mark.parametrize(("exchange", "counts"), [(Exchange(), NOTHING), (Exchange(sent=True, status=429), Amounts(1))])
async def test_what_was_not_sent_or_was_refused_takes_no_tokens(exchange: Exchange, counts: Amounts) -> None:
    assert await used(exchange, None, whole=False) == counts
