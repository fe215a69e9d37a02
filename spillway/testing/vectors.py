"""Vectors that a fake model makes: of length 1, the same for the same input, and another model's are others."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def vector(model: str, content: str | Sequence[int], dimensions: int = 8) -> list[float]:
    """The vector of a text or of token ids."""
    told = content if isinstance(content, str) else ",".join(map(str, content))
    draw = random.Random(f"{model}\0{told}")
    values = [draw.gauss(0, 1) for _ in range(dimensions)]
    length = math.hypot(*values)
    return [value / length for value in values]
