"""E-mail addresses, as people write them (RFC 5321's limits, no quoted local parts)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.validator.sensitive.span import Certainty, Span

_DOMAIN = r"(?:\w(?:[\w-]{0,61}\w)?\.){1,8}(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,63})(?![\w@])"
_AFTER = {sign: re.compile(re.escape(sign) + _DOMAIN, re.IGNORECASE) for sign in ("@", "%40", "\\u0040")}
"""Domains after an @, as it is, as URLs write it and as JSON may."""
_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}")
_EDGES = ".'`*/=|{}?!&#"


def emails(text: str) -> Iterator[Span]:
    """Find e-mail addresses. Goes from each @ to both sides: a long run of letters costs nothing."""
    for sign, domain in _AFTER.items():
        for match in domain.finditer(text) if sign in text else ():
            at = match.start()
            backwards = _LOCAL.match(text[max(0, at - 64) : at][::-1])
            local = backwards[0][::-1].lstrip(_EDGES) if backwards else ""
            if local and not local.endswith("."):
                yield Span(at - len(local), match.end(), "email", "email", Certainty.FORM)
