"""What is billed of an answer that was not read to its end."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloud_proxy.billing import Bill, OnCancel, Seen, bill, on_cancel
from services.cloud_proxy.settings import BASE_URLS
from services.cloud_proxy.spend import Price, Tariff

PRICE = Price(Decimal(1), Decimal(2), Decimal("0.1"), Decimal("1.25"))
TARIFF = Tariff("m", "", price=PRICE)
COUNTS = st.integers(0, 100_000)


@pytest.mark.parametrize(
    ("url", "does"),
    [
        (BASE_URLS["openai"], "generated"),
        (BASE_URLS["anthropic"], "generated"),
        (BASE_URLS["mistral"], "whole"),
        (BASE_URLS["gemini"], "whole"),
        ("https://mine.openai.azure.com/openai/v1", "generated"),
        ("https://mine--app.modal.run/v1", "whole"),
        ("https://openrouter.ai/api/v1", "unknown"),  # it depends on whom it asks
        ("https://api.openai.com.example/v1", "unknown"),
        ("https://notapi.openai.com/v1", "unknown"),
        ("http://127.0.0.1:7079/v1", "unknown"),
    ],
)
def test_what_a_provider_is_known_to_do_goes_by_its_host(url: str, does: OnCancel) -> None:
    assert on_cancel(url) == does


def test_who_bills_what_was_made_bills_what_we_counted() -> None:
    seen = Seen(prompt=100, completion=10, bound=1000, cached=40, written=20)
    cost = 40 * 1000 + 40 * 100 + 20 * 1250 + 10 * 2000
    assert bill(TARIFF, seen, "generated") == Bill(cost, cost)


@pytest.mark.parametrize("does", ["whole", "unknown"])
def test_who_may_go_on_bills_no_more_than_the_request_allows(does: OnCancel) -> None:
    assert bill(TARIFF, Seen(100, 10, 1000), does) == Bill(120_000, 100_000 + 1000 * 2000)
    assert bill(TARIFF, Seen(100, 10, None), does) == Bill(120_000, None)


def test_of_an_unknown_price_nothing_is_known() -> None:
    assert bill(Tariff("no-such-model", BASE_URLS["openai"]), Seen(1, 1, 1), "whole") == Bill(None, None)


@given(COUNTS, COUNTS, st.none() | COUNTS, st.sampled_from(["generated", "whole", "unknown"]))
def test_the_most_is_never_less_than_what_we_counted(
    prompt: int, completion: int, bound: int | None, does: OnCancel
) -> None:
    found = bill(TARIFF, Seen(prompt, completion, bound), does)
    assert found.counted is not None
    assert found.at_most is None or found.at_most >= found.counted
