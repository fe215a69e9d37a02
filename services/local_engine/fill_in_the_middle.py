"""Fill in the middle: text and suffix put between the tokens that a model was taught it with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from services.local_engine.settings import FillInTheMiddleSettings
from spillway.settings import SettingsError

Encode = Callable[[str], list[int]]

FAMILIES = (
    FillInTheMiddleSettings(prefix="<|fim_prefix|>", suffix="<|fim_suffix|>", middle="<|fim_middle|>"),
    FillInTheMiddleSettings(prefix="<fim_prefix>", suffix="<fim_suffix>", middle="<fim_middle>"),
    FillInTheMiddleSettings(prefix="<fim-prefix>", suffix="<fim-suffix>", middle="<fim-middle>"),
    FillInTheMiddleSettings(prefix="▁<PRE>", suffix="▁<SUF>", middle="▁<MID>"),
    FillInTheMiddleSettings(
        prefix="<\uff5cfim▁begin\uff5c>", suffix="<\uff5cfim▁hole\uff5c>", middle="<\uff5cfim▁end\uff5c>"
    ),
    FillInTheMiddleSettings(prefix="[PREFIX]", suffix="[SUFFIX]", order="suffix_first"),
)
"""Qwen, CodeGemma and Granite; StarCoder; SantaCoder; CodeLlama; DeepSeek; Codestral."""
ENDS = ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<file_sep>", "▁<EOT>")
"""Tokens by which these end a middle, beside the end of the text."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens around a prefix and a suffix, as ids. `texts` is how they would be written."""

    prefix: int
    suffix: int
    middle: int | None
    order: Literal["prefix_first", "suffix_first"]
    texts: tuple[str, ...]
    ends: frozenset[int]
    """Tokens that end what stands in the middle."""

    def around(self, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """Return the prompt for what stands between `prefix` and `suffix`."""
        before, after = [self.prefix, *prefix], [self.suffix, *suffix]
        middle = [] if self.middle is None else [self.middle]
        return [*before, *after, *middle] if self.order == "prefix_first" else [*after, *before, *middle]


def frame(tokenizer: Any, told: FillInTheMiddleSettings | Literal["auto", "off"]) -> Frame | None:
    """Return the frame that `told` names, or the one of the family that the tokenizer has all tokens of.

    Raises SettingsError where a token that was named is none of the model's.
    """
    if told == "off":
        return None
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if told != "auto":
        for name, text in (("prefix", told.prefix), ("suffix", told.suffix), ("middle", told.middle)):
            if text is not None and text not in vocabulary:
                field = f"local_engine.vllm.fill_in_the_middle.{name}"
                raise SettingsError(f"{field}: {text!r} is no token of this model")
        return _framed(told, vocabulary)
    for family in FAMILIES:
        if all(text in vocabulary for text in _texts(family)):
            return _framed(family, vocabulary)
    return None


def plain(text: str, texts: Sequence[str], encode: Encode, inner: Encode) -> list[int]:
    """Return `text` as tokens among which are none of `texts`: it is the caller's, who must not move the frame.

    Not every tokenizer can be told so, and some do not call these tokens special. What is behind a cut is encoded by
    `inner`.
    """
    found = re.finditer("|".join(f"(?={re.escape(marker)})" for marker in texts), text)
    cuts = [0, *(match.start() + 1 for match in found), len(text)]
    ids = encode(text[: cuts[1]])
    for begin, end in pairwise(cuts[1:]):
        ids += inner(text[begin:end])
    return ids


def _framed(family: FillInTheMiddleSettings, vocabulary: dict[str, int]) -> Frame:
    texts = _texts(family)
    ends = {vocabulary[text] for text in (*texts, *ENDS) if text in vocabulary}
    middle = None if family.middle is None else vocabulary[family.middle]
    return Frame(vocabulary[family.prefix], vocabulary[family.suffix], middle, family.order, texts, frozenset(ends))


def _texts(family: FillInTheMiddleSettings) -> tuple[str, ...]:
    return tuple(text for text in (family.prefix, family.suffix, family.middle) if text is not None)
