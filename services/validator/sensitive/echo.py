"""Where texts say again what was found elsewhere: a password after "password is", and by itself two messages later."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from services.validator.sensitive.span import Certainty, Span

_LEAST: Final = 6
"""Characters: what is shorter is often something else too."""
_MOST: Final = 64
"""Characters that are compared, so that the time stays linear in the texts."""
_BEGIN: Final = re.compile(r"(?<!\w)(?=\S)")


class Echoes:
    """Pieces by their characters, `originals` as (text, kind). The first kind of a text counts."""

    def __init__(self, originals: Iterable[tuple[str, str]]) -> None:
        self._tree: dict[str, Any] = {}
        for original, kind in originals:
            if _LEAST <= len(original) <= _MOST:
                node = self._tree
                for character in original:
                    node = node.setdefault(character, {})
                node.setdefault("", kind)

    def find(self, text: str) -> Iterator[Span]:
        """Yield where `text` says one of them as a word, or words, of its own."""
        if not self._tree:
            return
        for match in _BEGIN.finditer(text):
            start = position = match.start()
            node = self._tree
            while position < len(text) and (below := node.get(text[position])) is not None:
                node = below
                position += 1
                kind = node.get("")
                if kind is not None and not (text[position : position + 1].isalnum() and text[position - 1].isalnum()):
                    yield Span(start, position, kind, f"{kind}.again", Certainty.CONTEXT)

    def __repr__(self) -> str:
        return f"<Echoes of {len(self._tree)} beginnings>"


def with_echoes(
    texts: Sequence[str], found: Sequence[Sequence[Span]], known: Iterable[tuple[str, str]]
) -> list[list[Span]]:
    """Return `found` spans of each text, and where the texts say them, or what is `known`, again. They may overlap."""
    here = (
        (text[span.start : span.end], span.kind) for text, spans in zip(texts, found, strict=True) for span in spans
    )
    echoes = Echoes((*here, *known))
    return [[*spans, *echoes.find(text)] for text, spans in zip(texts, found, strict=True)]
