"""What is known of an answer that ended early, and what it is said to cost."""

from __future__ import annotations

from typing import cast

import pytest

from services.cloud_proxy.attempt import ANSWERED, Attempt, Leaving
from services.cloud_proxy.billing import Bill
from services.cloud_proxy.provider import Provider
from services.cloud_proxy.route import Route
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.spend import Tariff
from spillway import v1

SETTINGS = ProviderSettings.model_validate(
    {"name": "anthropic", "kind": "anthropic", "region": "us", "models": [{"name": "claude-haiku-4-5"}]}
)
MODEL = SETTINGS.models[0]
ROUTE = Route("a/m", SETTINGS, MODEL, cast("Provider", None), Tariff(MODEL.name, SETTINGS.base_url))


def attempt(
    outcome: str = "CANCELLED", *, status: int | None = 200, said: int = 0, usage: v1.Usage | None = None
) -> Attempt:
    found = Attempt(ROUTE, v1.PolicyStamp(), "r", began=0, queued=0, leaving=Leaving(300, 100, 50), outcome=outcome)
    exchange = found.exchange
    exchange.sent, exchange.status, exchange.said_bytes, exchange.usage = True, status, said, usage
    return found


def test_what_the_provider_told_early_goes_before_our_estimate() -> None:
    told = attempt(said=30, usage=v1.Usage(prompt_tokens=80, cached_prompt_tokens=40, completion_tokens=1))
    cost = 40 * 1000 + 40 * 100 + 10 * 5000  # 30 bytes are taken for 10 tokens, and are more than the 1 it had told
    assert told.bill() == Bill(cost, cost)
    assert told.cost() is None  # it is no whole answer
    assert not told.usage(1).HasField("cost_nano_usd")


def test_without_its_word_the_estimate_counts() -> None:
    assert attempt(said=30).bill() == Bill(100 * 1000 + 10 * 5000, 100 * 1000 + 10 * 5000)


def test_a_provider_that_had_counted_more_than_we_saw_is_right() -> None:
    assert attempt(said=3, usage=v1.Usage(prompt_tokens=80, completion_tokens=40)).seen().completion == 40


@pytest.mark.parametrize("status", [400, 429, 529])
def test_a_refused_call_costs_nothing(status: int) -> None:
    assert attempt("PROVIDER_ERROR", status=status).bill() == Bill(0, 0)


def test_a_call_that_was_never_sent_costs_nothing() -> None:
    found = attempt()
    found.exchange.sent = False
    assert found.bill() == Bill(0, 0)


def test_a_whole_answer_costs_what_its_usage_says_and_nothing_else() -> None:
    found = attempt(ANSWERED, said=9000, usage=v1.Usage(prompt_tokens=80, completion_tokens=10, reasoning_tokens=4))
    assert found.cost() == 80 * 1000 + 10 * 5000
    assert found.bill() == Bill(found.cost(), found.cost())


def test_a_whole_answer_without_usage_has_no_cost_and_is_counted() -> None:
    found = attempt(ANSWERED, said=30)
    assert found.cost() is None
    assert found.bill().counted == 100 * 1000 + 10 * 5000
