"""Tokens without a tokenizer."""

from __future__ import annotations

BYTES_PER_TOKEN = 3
"""UTF-8 bytes per token: four characters a token would undercount Chinese by 76 %."""


def estimated(size: int) -> int:
    """Tokens of a text of `size` UTF-8 bytes, estimated."""
    return -(-size // BYTES_PER_TOKEN)
