"""How a value of the template is read. Each reader returns it as our settings want it, or raises ValueError.

A message says what is accepted and never repeats the value: it may be a secret in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

Read = Callable[[object], Any]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0}
_VARIABLE = re.compile(r"\$?\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


def whole(least: int, most: int | None = None) -> Read:
    """A whole number in a range."""
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"

    def read(value: object) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < least
            or (most is not None and value > most)
        ):
            raise ValueError(f"expected a whole number, {bounds}")
        return value

    return read


def share(*, zero: bool = True) -> Read:
    """A number from 0 to 1."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or not (zero or value):
            raise ValueError("expected a number from 0 to 1" if zero else "expected a number above 0, at most 1")
        return float(value)

    return read


def text(value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected text")
    return value.strip()


def switch(value: object) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def word(known: Mapping[str, Any]) -> Read:
    """One of the words `known`, read as what stands there; case, dashes and underscores are all the same."""

    def read(value: object) -> Any:
        name = value.strip().lower().replace("-", "_") if isinstance(value, str) else ""
        if name not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return known[name]

    return read


def seconds(value: object) -> float:
    """A time: a number of seconds, or text as in 30s, 500ms, 2m. In seconds."""
    found = None if isinstance(value, bool) else _DURATION.fullmatch(str(value).strip())
    if found is None or not float(found[1]):
        raise ValueError("expected a time above 0: seconds, or text as in 30s, 500ms, 2m")
    return float(found[1]) * _SECONDS[(found[2] or "s").lower()]


def url(value: object) -> str:
    """http://host:port or https://..., without user, password or query."""
    parts = urlsplit(value.strip()) if isinstance(value, str) else urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://... or https://...")
    if parts.username or parts.password or parts.query:
        raise ValueError("must hold no user, password or query: a key comes from the environment")
    return parts.geturl().rstrip("/")


def variable(value: object) -> str:
    """The name of an environment variable, or ${NAME}."""
    found = _VARIABLE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected the name of an environment variable")
    return found[1]


def secret(value: object) -> str:
    """Only ${NAME}: the key itself does not stand in a file."""
    if not isinstance(value, str) or not re.fullmatch(r"\$(\w+|\{\w+\})", value.strip()):
        raise ValueError("keys do not stand in the configuration: name the variable that holds it, in api_key_env")
    return variable(value)
