"""What an answer costs, to the nano-dollar."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot

from services.cloud_proxy.app import _tariff
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.spend import PRICE_LIST, SETTINGS, Price, Tariff, Tokens

OPENAI = "https://api.openai.com/v1"
URLS = {
    "openai": OPENAI,
    "anthropic": "https://api.anthropic.com/v1",
    "mistral": "https://api.mistral.ai/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta",
}
DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)

LIST = {
    # USD per million tokens: input, output, cached, written into a cache; then, where a long prompt has prices of its
    # own, from how many tokens on, and these.
    "openai/gpt-4o": ("2.5", "10", "1.25", "2.5"),
    "openai/gpt-4o-mini": ("0.15", "0.6", "0.075", "0.15"),
    "openai/gpt-4.1": ("2", "8", "0.5", "2"),
    "openai/gpt-4.1-mini": ("0.4", "1.6", "0.1", "0.4"),
    "openai/o3": ("2", "8", "0.5", "2"),
    "openai/gpt-5-nano": ("0.05", "0.4", "0.005", "0.05"),
    "openai/gpt-4": ("30", "60", "30", "30"),
    "openai/gpt-3.5-turbo-0125": ("0.5", "1.5", "0.5", "0.5"),
    "anthropic/claude-haiku-4-5-20251001": ("1", "5", "0.1", "1.25"),
    "anthropic/claude-opus-4-5": ("5", "25", "0.5", "6.25"),
    "anthropic/claude-sonnet-4-5": ("3", "15", "0.3", "3.75", 200_000, "6", "22.5", "0.6", "7.5"),
    "mistral/mistral-small-latest": ("0.15", "0.6", "0.015", "0.15"),
    "mistral/mistral-large-latest": ("2", "6", "2", "2"),
    "mistral/codestral-latest": ("0.3", "0.9", "0.3", "0.3"),
    "google/gemini-2.5-flash": ("0.3", "2.5", "0.03", "0.3"),
    "google/gemini-2.0-flash": ("0.1", "0.4", "0.025", "0.1"),
    "google/gemini-2.5-pro": ("1.25", "10", "0.125", "1.25", 200_000, "2.5", "15", "0.25", "2.5"),
}
RECORDED = [
    # Usages that providers told: prompt, completion, cached, written, reasoning.
    ("openai/gpt-4o", 12, 2, 0, 0, 0),
    ("openai/gpt-5-nano", 13, 157, 0, 0, 128),
    ("openai/gpt-4.1", 60, 36, 0, 0, 0),
    ("openai/gpt-4", 12, 5, 0, 0, 0),
    ("openai/gpt-3.5-turbo-0125", 68, 16, 0, 0, 0),
    ("openai/gpt-4o-mini", 209, 51, 0, 0, 0),
    ("openai/gpt-4o", 1515, 8, 1390, 0, 0),
    ("anthropic/claude-haiku-4-5-20251001", 16, 13, 0, 0, 0),
    ("anthropic/claude-haiku-4-5-20251001", 543, 40, 0, 0, 0),
    ("anthropic/claude-sonnet-4-5", 599, 68, 0, 0, 0),
    ("anthropic/claude-sonnet-4-5", 701, 22, 0, 0, 0),
    ("anthropic/claude-sonnet-4-5", 230, 94, 0, 0, 0),
    ("anthropic/claude-sonnet-4-5", 4 + 1163, 187, 0, 1163, 0),
    ("anthropic/claude-sonnet-4-5", 4 + 1163, 202, 1163, 0, 0),
    ("mistral/mistral-small-latest", 23, 9, 0, 0, 0),
    ("mistral/mistral-small-latest", 24, 7, 0, 0, 0),
    ("mistral/mistral-large-latest", 122, 29, 0, 0, 0),
    ("google/gemini-2.5-flash", 10, 8 + 23, 0, 0, 23),
    ("google/gemini-2.5-flash", 22, 6 + 106, 0, 0, 106),
    ("google/gemini-2.0-flash", 63, 6, 0, 0, 0),
]


def usages() -> Iterator[tuple[str, int, int, int, int, int]]:
    yield from RECORDED
    drawn = random.Random(5)
    for model in LIST:
        for most in (300, 30_000, 199_999, 200_000, 200_001, 900_000):
            prompt = most if most in (200_000, 200_001) else drawn.randrange(most)
            cached = drawn.randrange(prompt + 1)
            written = drawn.randrange(prompt - cached + 1)
            completion = drawn.randrange(20_000)
            yield model, prompt, completion, cached, written, drawn.randrange(completion + 1)


def by_hand(model: str, prompt: int, completion: int, cached: int, written: int) -> int:
    """Exact, in fractions of a nano-dollar, and rounded half up as one does it on paper."""
    row = LIST[model]
    prices = row[5:] if len(row) > 4 and prompt > int(row[4]) else row[:4]
    input_usd, output_usd, cached_usd, written_usd = (Fraction(str(price)) * 1000 for price in prices)
    nano = input_usd * prompt + output_usd * completion
    nano -= (input_usd - cached_usd) * cached
    nano -= (input_usd - written_usd) * written
    return floor(nano + Fraction(1, 2))


def test_a_hundred_usages_and_more_cost_what_they_cost_by_hand() -> None:
    told = list(usages())
    assert len(told) > 100
    assert len({model.partition("/")[0] for model in LIST}) == 4
    for model, prompt, completion, cached, written, reasoning in told:
        provider, _, name = model.partition("/")
        tokens = Tokens(prompt, completion, cached=cached, written=written, reasoning=reasoning)
        cost = Tariff(name, URLS[provider]).cost_nano_usd(tokens, DAY)
        assert cost == by_hand(model, prompt, completion, cached, written), (model, tokens)


def test_the_whole_list_is_read_as_its_own_library_reads_it() -> None:
    drawn, seen = random.Random(7), 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            tariff = Tariff(model.id, "", provider.id)
            price = tariff.listed(DAY)
            if price is None:  # it is listed without one, or not found by its own name
                continue
            _, found = get_snapshot().find_provider_model(model.id, None, provider.id, None)
            prompt = drawn.randrange(500_000)
            cached = drawn.randrange(prompt + 1)
            written = drawn.randrange(prompt - cached + 1)
            usage = Usage(
                input_tokens=prompt,
                cache_read_tokens=cached,
                cache_write_tokens=written,
                output_tokens=9_000,
                output_reasoning_tokens=4_000,
            )
            its = found.calc_price(usage, provider, genai_request_timestamp=DAY).total_price
            assert price.usd(Tokens(prompt, 9_000, cached, written, 4_000)) == its, tariff
            seen += 1
    assert seen > 1000


def test_a_price_holds_from_its_day_on() -> None:
    small = Tariff("mistral-small-latest", URLS["mistral"])
    tokens = Tokens(1000, 1000)
    assert small.cost_nano_usd(tokens, datetime(2026, 3, 15, tzinfo=UTC)) == 1000 * 100 + 1000 * 300
    assert small.cost_nano_usd(tokens, datetime(2026, 3, 17, tzinfo=UTC)) == 1000 * 150 + 1000 * 600


def test_half_a_nano_dollar_is_rounded_up_and_once() -> None:
    half = Decimal("0.0005")
    price = Price(half, half, half, half)
    tariff = Tariff("m", OPENAI, price=price)
    assert tariff.cost_nano_usd(Tokens(1, 0)) == 1
    assert tariff.cost_nano_usd(Tokens(1, 1)) == 1  # not 1 + 1
    assert tariff.cost_nano_usd(Tokens(0, 0)) == 0


@pytest.mark.parametrize(
    ("tokens", "same"),
    [
        (Tokens(10, 0, cached=99), Tokens(10, 0, cached=10)),
        (Tokens(10, 0, cached=8, written=8), Tokens(10, 0, cached=8, written=2)),
        (Tokens(10, 5, reasoning=9), Tokens(10, 5, reasoning=5)),
    ],
)
def test_no_part_is_more_than_its_whole(tokens: Tokens, same: Tokens) -> None:
    sonnet = Tariff("claude-sonnet-4-5", URLS["anthropic"])
    assert sonnet.cost_nano_usd(tokens) == sonnet.cost_nano_usd(same)


def test_an_unknown_price_is_absent_and_not_zero() -> None:
    for tariff in (Tariff("no-such-model", OPENAI), Tariff("gpt-4o-mini", "http://127.0.0.1:7079/v1")):
        assert tariff.cost_nano_usd(Tokens(1, 1)) is None
        assert tariff.source == ""


def test_a_model_that_is_on_the_list_without_a_price_has_none() -> None:
    assert Tariff("gpt-4o", "", "github-copilot").cost_nano_usd(Tokens(1, 1)) is None  # part of a subscription


def test_a_named_price_list_serves_any_address() -> None:
    tariff = Tariff("gpt-4o-mini", "http://127.0.0.1:7079/v1", "openai")
    assert tariff.cost_nano_usd(Tokens(1000, 0)) == 150_000
    assert tariff.source == PRICE_LIST


def settled(model: dict[str, object], **provider: object) -> Tariff:
    settings = ProviderSettings.model_validate(
        {"name": "p", "region": "us", "models": [{"name": "gpt-4o-mini", **model}], **provider}
    )
    return _tariff(settings, settings.models[0])


CHEAP = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}


def test_a_price_of_the_settings_goes_before_the_list_and_has_a_date() -> None:
    price = {**CHEAP, "cached_input_usd_per_mtok": 0.1, "cache_write_usd_per_mtok": 1.25, "as_of": "2026-11-21"}
    tariff = settled({"price": price})
    assert tariff.cost_nano_usd(Tokens(10, 5, cached=4, written=2)) == 4 * 1000 + 4 * 100 + 2 * 1250 + 5 * 2000
    assert (tariff.source, tariff.as_of) == (SETTINGS, date(2026, 11, 21))


def test_a_price_that_says_nothing_of_caches_has_them_as_other_input() -> None:
    tariff = settled({"price": CHEAP})
    assert tariff.cost_nano_usd(Tokens(10, 5, cached=4, written=2)) == tariff.cost_nano_usd(Tokens(10, 5)) == 20_000


def test_a_long_prompt_may_have_a_price_of_its_own() -> None:
    long = {"above_tokens": 100, "input_usd_per_mtok": 3, "output_usd_per_mtok": 4}
    tariff = settled({"price": {**CHEAP, "long_context": long}})
    assert tariff.cost_nano_usd(Tokens(100, 1)) == 100 * 1000 + 2000
    assert tariff.cost_nano_usd(Tokens(101, 1)) == 101 * 3000 + 4000


def test_a_models_price_goes_before_its_providers_and_that_before_the_list() -> None:
    dear = {"input_usd_per_mtok": 5, "output_usd_per_mtok": 5}
    assert settled({"price": CHEAP}, price=dear).cost_nano_usd(Tokens(1, 0)) == 1000
    assert settled({}, price=dear).cost_nano_usd(Tokens(1, 0)) == 5000
    assert settled({}).cost_nano_usd(Tokens(1, 0)) == 150


def test_a_simulated_provider_costs_what_the_real_one_does() -> None:
    tariff = settled({}, simulated=True, base_url="http://127.0.0.1:7079/v1")
    assert tariff.cost_nano_usd(Tokens(1, 0)) == 150
