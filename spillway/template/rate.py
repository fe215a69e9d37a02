"""Rate limits as people write them: "1000 requests/min", "100k tokens/min", "10 requests/second", "500 rpm"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction

REQUESTS, TOKENS = "requests_per_minute", "tokens_per_minute"
NAMES = (REQUESTS, TOKENS, f"input_{TOKENS}", f"output_{TOKENS}")

_RATE = re.compile(
    r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<scale>[km]?)\s*"
    r"(?:(?P<what>req(?:uest)?s?|calls?|(?:(?P<part>input|output)\s+)?tok(?:en)?s?)?\s*(?:/|per)\s*(?P<unit>s|m|h|d|sec|min|hr|second|minute|hour|day)s?"
    r"|(?P<short>[rt]p[smhd]))",
    re.IGNORECASE,
)
_SCALES = {"": 1, "k": 1000, "m": 1_000_000}
_A_MINUTE = {"s": Fraction(60), "m": Fraction(1), "h": Fraction(1, 60), "d": Fraction(1, 1440)}
_EXPECTED = 'expected a rate as in "1000 requests/min", "10 requests/second" or "100k tokens/min"'


def rate_limit(value: object) -> dict[str, int]:
    """Read one rate or several, as text, list or mapping; return the limits of a provider, per minute.

    Several stand in a list or behind commas. A rate without a noun is one of requests. What is not whole a minute is
    rounded down. Raises ValueError for what is no rate, is less than one a minute, or is given twice.
    """
    limits: dict[str, int] = {}
    for name, limit in _rates(value):
        if name in limits:
            raise ValueError(f"{name.removesuffix('_per_minute').replace('_', ' ')} are limited twice")
        if limit < 1:
            raise ValueError("is less than one a minute, the least that can be kept")
        limits[name] = limit
    if not limits:
        raise ValueError(_EXPECTED)
    return limits


def _rates(value: object) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for name, limit in value.items():
            if name not in NAMES or isinstance(limit, bool) or not isinstance(limit, int):
                raise ValueError(f"expected whole numbers, {REQUESTS} and {TOKENS}")
            yield name, limit
        return
    for part in value if isinstance(value, list) else str(value).split(","):
        found = _RATE.fullmatch(str(part).strip())
        if found is None:
            raise ValueError(_EXPECTED)
        short = (found["short"] or "").lower()
        tokens = "tok" in (found["what"] or "").lower() or short.startswith("t")
        part = f"{found['part'].lower()}_" if found["part"] else ""
        unit = short[-1:] or found["unit"][0].lower()
        amount = Fraction(found["amount"]) * _SCALES[found["scale"].lower()] * _A_MINUTE[unit]
        yield f"{part}{TOKENS}" if tokens else REQUESTS, int(amount)
