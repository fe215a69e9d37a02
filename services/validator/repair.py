"""Broken JSON mended, as models break it: quotes, commas, comments, Python's words, ends that are missing.

A repairer never says no, so what it makes is read again as strictly as any answer, and held to the schema again.
"""

from __future__ import annotations

import json
from typing import Any

import json_repair

from services.validator.document import read

TRIPPED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the library raises where it trips over a text, which it has then not mended; NotJson is one of them."""


def mended(text: str, *, max_depth: int) -> tuple[Any, str] | None:
    """Return the object or array that `text` was meant to be, and its JSON; None where none can be made out.

    It takes time that grows with the text faster than linearly, and is for processes that can be stopped.
    """
    try:
        value = json_repair.loads(text)
        told = json.dumps(value, ensure_ascii=False)
        told = told.encode("utf-16", "surrogatepass").decode("utf-16")  # half of a pair alone is a ValueError
        if not isinstance(value, dict | list) or not value:
            return None
        return read(told, max_depth=max_depth), told
    except TRIPPED:
        return None
