"""Broken JSON mended, as models break it: quotes, commas, comments, Python's words, ends that are missing.

A repairer never says no, so what it makes is read again as strictly as any answer, and held to the schema again.
"""

from __future__ import annotations

import json
from typing import Any

import json_repair

from services.validator.document import NotJson, read


def mended(text: str, *, max_depth: int) -> tuple[Any, str] | None:
    """Return the object or array that `text` was meant to be, and its JSON; None where none can be made out.

    It takes time that grows with the text faster than linearly, and is for processes that can be stopped.
    """
    try:
        value = json_repair.loads(text)
        told = json.dumps(value, ensure_ascii=False)
        if not isinstance(value, dict | list) or not value:
            return None
        return read(told, max_depth=max_depth), told
    except NotJson:
        return None
    # The library is written for what comes, not against it: one that trips over a text has not mended it.
    except Exception:
        return None
