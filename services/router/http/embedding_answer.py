"""Vectors as the body of POST /v1/embeddings."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterable
from typing import Any

from spillway import v1


def whole(response: v1.EmbedResponse, *, packed: bool) -> dict[str, Any]:
    """The body of an answer. `packed`: each vector is the base64 of its little-endian float32 values."""
    usage = response.usage
    counts = None
    if usage.HasField("prompt_tokens"):
        counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": pack(one.values) if packed else list(one.values)}
            for index, one in enumerate(response.embeddings)
        ],
        "model": response.model,
        "usage": counts,
    }


def pack(values: Iterable[float]) -> str:
    """The base64 of `values` as little-endian float32."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
