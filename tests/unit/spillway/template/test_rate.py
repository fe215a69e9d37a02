from __future__ import annotations

import pytest

from spillway.template.rate import rate_limit


@pytest.mark.parametrize(
    ("written", "requests", "tokens"),
    [
        ("1000 requests/min", 1000, None),
        ("60/min", 60, None),
        ("10 requests/second", 600, None),
        ("100k tokens/min", None, 100_000),
        ("0.5m tokens per minute", None, 500_000),
        ("500 rpm", 500, None),
        ("200k TPM", None, 200_000),
        ("5 rps", 300, None),
        ("3600 requests per hour", 60, None),
        ("100 calls/h", 1, None),
        ("1000 requests/min, 100k tokens/min", 1000, 100_000),
        (["60 req/m", "2k tok/s"], 60, 120_000),
        ({"requests_per_minute": 60, "tokens_per_minute": 9000}, 60, 9000),
    ],
)
def test_a_rate_is_read_as_people_write_it(written: object, requests: int | None, tokens: int | None) -> None:
    read = rate_limit(written)

    assert (read.get("requests_per_minute"), read.get("tokens_per_minute")) == (requests, tokens)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("many", "expected a rate"),
        ("1000", "expected a rate"),
        (1000, "expected a rate"),
        (True, "expected a rate"),
        ("", "expected a rate"),
        ([], "expected a rate"),
        ("-5/min", "expected a rate"),
        ("10 apples/min", "expected a rate"),
        ("0 requests/min", "less than one a minute"),
        ("100 requests/day", "less than one a minute"),
        ("10/min, 20 requests/min", "requests are limited twice"),
        ({"rpm": 60}, "requests_per_minute and tokens_per_minute"),
        ({"requests_per_minute": True}, "whole numbers"),
        ({}, "expected a rate"),
    ],
)
def test_what_is_no_rate_is_refused(written: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rate_limit(written)
