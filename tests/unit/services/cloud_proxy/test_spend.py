"""What an answer costs."""

from __future__ import annotations

from decimal import Decimal

from services.cloud_proxy.spend import Price, Tariff, Tokens

OPENAI = "https://api.openai.com/v1"


def test_cached_tokens_are_counted_once_at_their_own_price() -> None:
    tariff = Tariff("gpt-4o-mini", OPENAI)
    plain = tariff.cost_nano_usd(Tokens(prompt=1000, completion=100))
    cached = tariff.cost_nano_usd(Tokens(prompt=1000, completion=100, cached=400))
    assert plain == 1000 * 150 + 100 * 600
    assert cached == 600 * 150 + 400 * 75 + 100 * 600


def test_a_price_of_the_settings_goes_before_the_list() -> None:
    price = Price(Decimal(1), Decimal(2), Decimal("0.5"))
    assert Tariff("gpt-4o-mini", OPENAI, price=price).cost_nano_usd(Tokens(10, 5, cached=4)) == 6000 + 2000 + 10_000


def test_an_unknown_price_is_absent_and_not_zero() -> None:
    assert Tariff("no-such-model", OPENAI).cost_nano_usd(Tokens(1, 1)) is None
    assert Tariff("gpt-4o-mini", "http://127.0.0.1:7079/v1").cost_nano_usd(Tokens(1, 1)) is None


def test_a_named_price_list_serves_any_address() -> None:
    tariff = Tariff("gpt-4o-mini", "http://127.0.0.1:7079/v1", "openai")
    assert tariff.cost_nano_usd(Tokens(1000, 0)) == 150_000


def test_more_cached_tokens_than_prompt_do_not_make_a_negative_price() -> None:
    assert Tariff("gpt-4o-mini", OPENAI).cost_nano_usd(Tokens(10, 0, cached=99)) == 750
