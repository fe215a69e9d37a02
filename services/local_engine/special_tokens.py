"""The caller's text in a chat is never read as the special tokens by which a model tells who speaks.

A tokenizer finds them in what the template has written, and cannot know whose text they stand in. Where a caller's text
has one, a mark is put into it before the template sees it. What the template then writes is tokenized in pieces, cut at
the marks, and no piece has the token whole. All other text is tokenized as ever.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

MARKS = range(0xFDD0, 0x110000)
"""Code points of which one that a prompt does not have is its mark: first those that are no characters at all."""
FORGING = ("user", "tool")
"""Roles in whose text not even tokens that the model itself writes, of its calls for example, are read."""


class Cuts:
    """Finds where `tokens` begin in a text."""

    def __init__(self, tokens: Collection[str]) -> None:
        self.tokens = tuple(sorted(token for token in tokens if len(token) > 1))
        seconds: defaultdict[str, set[str]] = defaultdict(set)
        for token in self.tokens:
            seconds[token[0]].add(re.escape(token[1]))
        # Two characters are looked for, then all tokens at once: hundreds of alternatives take a regex long.
        heads = (f"{re.escape(first)}(?=[{''.join(sorted(found))}])" for first, found in seconds.items())
        self._heads = re.compile("|".join(heads) or r"(?!)")

    def found(self, text: str) -> Iterator[int]:
        """Yield where each token in `text` may be cut: behind its first character. Those that overlap count all."""
        return (hit.end() for hit in self._heads.finditer(text) if text.startswith(self.tokens, hit.start()))

    def marked(self, mark: str, text: str) -> str:
        """Return `text` with `mark` where it is to be cut."""
        pieces, last = [], 0
        for at in self.found(text):
            pieces.append(text[last:at])
            last = at
        return mark.join([*pieces, text[last:]])

    def without(self, kept: Collection[str]) -> Cuts:
        """Return these, less the tokens `kept`."""
        return Cuts([token for token in self.tokens if token not in kept]) if kept else self


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens of a model that no caller's text is read for."""

    special: Cuts
    every: Cuts
    """With others that its template writes: some models' marks of who speaks are called special nowhere."""

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens | None:
        """Return those of a Hugging Face tokenizer; None where it names none."""
        added: Mapping[int, Any] | None = getattr(tokenizer, "added_tokens_decoder", None)
        if not added:
            return None
        template = getattr(tokenizer, "chat_template", None) or ""
        source = "".join(template.values()) if isinstance(template, dict) else template
        special = {token.content for token in added.values() if token.special} | set(
            map(str, tokenizer.all_special_tokens)
        )
        written = {token.content for token in added.values() if token.content.strip() and token.content in source}
        return cls(Cuts(special), Cuts(special | written))

    def marked(
        self, messages: list[dict[str, Any]], tools: Any, kept: Collection[str] = ()
    ) -> tuple[list[dict[str, Any]], Any, str]:
        """Return both with a mark in each special token of theirs, and the mark; empty: there was none to put.

        `kept` are those that stand for images in the content of messages; the caller's text has none of them there.
        """
        texts = list(_texts([messages, tools]))
        if not any(True for text in texts for _ in self.every.found(text)):
            return messages, tools, ""
        said = set().union(*texts)
        mark = next(char for char in map(chr, MARKS) if char not in said)
        told = []
        for message in messages:
            cuts = self.every if message["role"] in FORGING else self.special
            fields = _each(message, partial(cuts.marked, mark))
            if message["role"] != "tool":  # there are no images in results
                fields["content"] = _each(message["content"], partial(cuts.without(kept).marked, mark))
            told.append(fields)
        return told, _each(tools, partial(self.every.marked, mark)), mark

    def __repr__(self) -> str:
        return f"<SpecialTokens {len(self.special.tokens)} special of {len(self.every.tokens)}>"


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for name, held in value.items():
                yield from _texts(name)
                yield from _texts(held)
        case list():
            for held in value:
                yield from _texts(held)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """Return `value` with all its texts changed, the names in it too."""
    match value:
        case str():
            return change(value)
        case dict():
            return {change(name): _each(held, change) for name, held in value.items()}
        case list():
            return [_each(held, change) for held in value]
    return value
