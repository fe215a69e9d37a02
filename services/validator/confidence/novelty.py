"""How unlike the prompts that a target has answered well a prompt is.

The reference of a target is the set of short word sequences that those prompts had, hashed into a field of bits: no
text is kept. The novelty of a prompt is the share of its own sequences that are not in the set.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Iterator

LEAST_BYTES, MAX_BYTES = 2**13, 2**20
"""Of a reference: with a byte for each sequence about one unknown sequence in eight is taken for known."""
READ_CHARS = 16_384
"""Of a longer prompt its beginning and its end are read, half of this each."""
_WORD = re.compile(r"[^\W\d_]++|\d|[^\w\s]")
_LENGTHS = (1, 2)


def grams(prompt: str) -> Iterator[int]:
    """Yield 32-bit hashes of each word and each pair of words in `prompt`: case aside, digits are 0, signs are dots."""
    if len(prompt) > READ_CHARS:
        prompt = f"{prompt[: READ_CHARS // 2]}\n{prompt[-READ_CHARS // 2 :]}"
    words = [word if word.isalpha() else "0" if word.isdigit() else "." for word in _WORD.findall(prompt.casefold())]
    for length in _LENGTHS:
        for at in range(len(words) - length + 1):
            yield zlib.crc32(" ".join(words[at : at + length]).encode())


class Reference:
    """A set of hashes in a field of bits, a power of two: a Bloom filter of one function (Bloom 1970).

    What is in the set is always found; what is not is taken for known with the chance that `fill` tells.
    """

    def __init__(self, field: bytes) -> None:
        self._field = field
        self._mask = len(field) * 8 - 1
        if len(field) & (len(field) - 1) or not field:
            raise ValueError("the number of bytes is not a power of two")

    @classmethod
    def of(cls, prompts: Iterable[str]) -> Reference:
        """Return the reference of `prompts`: at least a byte for each sequence, up to a bound."""
        known = {gram for prompt in prompts for gram in grams(prompt)}
        size = LEAST_BYTES
        while size < min(len(known), MAX_BYTES):
            size *= 2
        field = bytearray(size)
        for gram in known:
            place = gram & (size * 8 - 1)
            field[place >> 3] |= 1 << (place & 7)
        return cls(bytes(field))

    @classmethod
    def read(cls, text: str) -> Reference:
        """Return what `written` wrote. Raises ValueError."""
        inflating = zlib.decompressobj()
        try:
            field = inflating.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not inflating.eof:
            raise ValueError(f"it is cut off, or longer than {MAX_BYTES} bytes")
        return cls(field)

    def written(self) -> str:
        """Return the set as text."""
        return base64.b64encode(zlib.compress(self._field, 9)).decode()

    @property
    def fill(self) -> float:
        """Share of the bits that are set."""
        return sum(byte.bit_count() for byte in self._field) / (len(self._field) * 8)

    def novelty(self, prompt: str) -> float | None:
        """Return the share of sequences in `prompt` that are not in the set; None where it has none."""
        found = [gram & self._mask for gram in grams(prompt)]
        if not found:
            return None
        return sum(not self._field[place >> 3] >> (place & 7) & 1 for place in found) / len(found)

    def __repr__(self) -> str:
        return f"<Reference {len(self._field)} bytes, {self.fill:.0%} full>"
