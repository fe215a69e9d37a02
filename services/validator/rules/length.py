"""The rule that an answer is neither too short nor too long, by any of four measures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from services.validator.rules.rule import RuleSettings
from services.validator.verdict import Finding, FindingKind

Measure = Literal["chars", "words", "sentences", "lines"]
MEASURES: Final[tuple[Measure, ...]] = ("chars", "words", "sentences", "lines")
_WORDS: Final = {"chars": "characters"}
_CLOSING: Final = r"[\"'\u00bb\u201d\u2019)\]]*+"
_END: Final = re.compile(
    rf"(?<![.!?\u2026])(?P<end>[.!?\u2026]++){_CLOSING}\s++(?=\S)|[\u3002\uff01\uff1f]++{_CLOSING}\s*+(?=\S)"
)
_LAST_WORD: Final = re.compile(r"(?:^|(?<=\n))[ \t]*\d+$|\w+$")
_ABBREVIATIONS: Final = frozenset(
    ("bzw", "ca", "dr", "fig", "hr", "mlle", "mme", "mr", "mrs", "ms", "nr", "prof", "sr", "st", "vs")
)
_LOOK_BACK: Final = 24  # characters before a full stop that say whether it ends a sentence


class LengthSettings(RuleSettings):
    """Bounds, white space around the answer aside. Words are what white space separates; empty lines count."""

    kind: Literal["length"]
    min_chars: int | None = Field(None, ge=0, description="Unicode code points")
    max_chars: int | None = Field(None, ge=0)
    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=0)
    min_sentences: int | None = Field(None, ge=0)
    max_sentences: int | None = Field(None, ge=0)
    min_lines: int | None = Field(None, ge=0)
    max_lines: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        found = bounds(self)
        if not found:
            raise ValueError("give at least one bound, such as `max_words`")
        for bound in found:
            if bound.most is not None and bound.least > bound.most:
                raise ValueError(f"min_{bound.measure} is above max_{bound.measure}")
        return self


@dataclass(frozen=True, slots=True)
class Bound:
    """At least and at most so many of a measure; `most` None: any number."""

    measure: Measure
    least: int
    most: int | None

    @property
    def description(self) -> str:
        most = "" if self.most is None else f"at most {self.most}"
        said = " and ".join(part for part in (f"at least {self.least}" if self.least else "", most) if part)
        return f"{said or 'at least 0'} {_WORDS.get(self.measure, self.measure)}"

    def finding(self, count: int) -> Finding | None:
        """Return what is wrong with an answer that measures `count`."""
        if self.least <= count and (self.most is None or count <= self.most):
            return None
        name = _WORDS.get(self.measure, self.measure)
        side = "short" if count < self.least else "long"
        return Finding(FindingKind.LENGTH, f"the answer has {count} {name} and is too {side}: give {self.description}")


def bounds(settings: LengthSettings) -> tuple[Bound, ...]:
    """Return the bounds that `settings` state."""
    found = []
    for measure in MEASURES:
        least, most = getattr(settings, f"min_{measure}"), getattr(settings, f"max_{measure}")
        if (least, most) != (None, None):
            found.append(Bound(measure, least or 0, most))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Length:
    """All bounds hold."""

    bounds: tuple[Bound, ...]
    inline_chars: int = 16 * 2**10

    @property
    def description(self) -> str:
        return f"Answer with {', '.join(bound.description for bound in self.bounds)}."

    def findings(self, text: str) -> Sequence[Finding]:
        counted = (bound.finding(count(text, bound.measure)) for bound in self.bounds)
        return tuple(finding for finding in counted if finding is not None)

    def reader(self) -> Growth:
        return Growth(self.bounds)


class Growth:
    """Counts an answer on its way. Its sentences are left to the end, which may show that one has not ended."""

    def __init__(self, bounds: Sequence[Bound]) -> None:
        self._bounds = [bound for bound in bounds if bound.most is not None and bound.measure != "sentences"]
        self._counts: dict[Measure, int] = {"chars": 0, "words": 0, "lines": 0}
        self._white = ""

    def take(self, piece: str) -> Finding | None:
        """Read what has arrived; return what is wrong where it is too long already."""
        body = piece.strip()
        if not body:
            self._white += piece if self._counts["chars"] else ""
            return None
        start = piece.index(body)
        between, self._white = self._white + piece[:start], piece[start + len(body) :]
        begun = self._counts["chars"] > 0
        self._counts["chars"] += len(body) + (len(between) if begun else 0)
        self._counts["words"] += count(body, "words") - (begun and not between)
        self._counts["lines"] += count(body, "lines") - begun + (between.count("\n") if begun else 0)
        for bound in self._bounds:
            number = self._counts[bound.measure]
            if bound.most is not None and number > bound.most:
                name = _WORDS.get(bound.measure, bound.measure)
                said = f"the answer is too long, and was stopped at {number} {name}: give {bound.description}"
                return Finding(FindingKind.LENGTH, said)
        return None

    def __repr__(self) -> str:
        return f"<Growth {self._counts}>"


def length(settings: LengthSettings) -> Length:
    """Return the rule of `settings`."""
    return Length(bounds(settings))


def count(text: str, measure: Measure) -> int:
    """Return how many of `measure` there are in `text`, white space around it aside; 0 where nothing is left."""
    text = text.strip()
    match measure:
        case "chars":
            return len(text)
        case "words":
            return len(text.split())
        case "lines":
            return text.count("\n") + 1 if text else 0
        case "sentences":
            return 1 + sum(1 for _ in _ends(text)) if text else 0


def _ends(text: str) -> Iterator[int]:
    """Yield where a sentence ends that another one follows.

    Marks that end one, then white space, then no small letter; not after a number that begins a line, one letter or a
    usual abbreviation. Those of Chinese and Japanese need no white space.
    """
    for found in _END.finditer(text):
        if found["end"] is None:
            yield found.end()
        elif not text[found.end()].islower():
            last = _LAST_WORD.search(text[max(0, found.start() - _LOOK_BACK) : found.start()])
            word = last[0].strip().lower() if last is not None else ""
            listed = last is not None and word.isdecimal() and _begins_line(text, found.start() - len(last[0]))
            if found["end"] != "." or not (listed or len(word) == 1 or word in _ABBREVIATIONS):
                yield found.end()


def _begins_line(text: str, start: int) -> bool:
    return start <= 0 or not text[text.rfind("\n", 0, start) + 1 : start].strip()
