"""Tokens without a tokenizer."""

from __future__ import annotations

BYTES_PER_TOKEN = 3
"""UTF-8 bytes per token: four characters a token would undercount Chinese by 76 %."""

IMAGE_TOKENS = 1000
"""Tokens of an image, estimated: providers' cost 85 to some 1,100."""
MOST_IMAGE_TOKENS = 16384
"""Tokens of an image where it must not be underestimated: Qwen's models make as many of the largest they take."""


def estimated(size: int, images: int = 0) -> int:
    """Tokens of a prompt of `size` UTF-8 bytes and so many images, estimated."""
    return -(-size // BYTES_PER_TOKEN) + images * IMAGE_TOKENS
