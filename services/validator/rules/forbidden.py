"""The rule that an answer does not have certain words, matches of patterns, or sensitive data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from services.validator.expression import found
from services.validator.rules.regex import checked
from services.validator.rules.rule import RuleSettings
from services.validator.sensitive.inspection import inspect
from services.validator.verdict import Finding, FindingKind

SensitiveKind = Literal["card", "iban", "national_id", "phone", "email", "ip_address", "secret"]
_WORD: Final = re.compile(r"\w+")
_GAP: Final = re.compile(r"[\s'\u2019\-\u2010-\u2015]*+")
"""What may stand between the words of a phrase."""
INLINE_WORD_CHARS: Final = 16 * 2**10
INLINE_INSPECTED_CHARS: Final = 8 * 2**10
MAX_GAP: Final = 64

Words = tuple[str, ...]


class ForbiddenSettings(RuleSettings):
    """What an answer may not have."""

    kind: Literal["forbidden"]
    words: tuple[str, ...] = Field((), description="words and phrases, whole ones, in any case, with any accents")
    patterns: tuple[str, ...] = Field((), description="regular expressions, as `regex` takes them")
    sensitive: frozenset[SensitiveKind] = Field(frozenset(), description="kinds as docs/sensitive.md names them")

    @field_validator("words")
    @classmethod
    def _are_words(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not _WORD.search(folded(value)):
                raise ValueError(f"{value!r} has no letter and no digit; forbid it by `patterns`")
        return values

    @field_validator("patterns")
    @classmethod
    def _compile(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked(value) for value in values)

    @model_validator(mode="after")
    def _forbids_something(self) -> Self:
        if not (self.words or self.patterns or self.sensitive):
            raise ValueError("give `words`, `patterns` or `sensitive`")
        return self


@dataclass(frozen=True, slots=True)
class Forbidden:
    """None of these is in the answer. `phrases`: what is forbidden as it was written, by its folded words."""

    phrases: Mapping[Words, str]
    patterns: tuple[str, ...] = ()
    sensitive: frozenset[str] = frozenset()
    longest: int = field(init=False, default=0)
    """Words of the longest phrase."""
    last: frozenset[str] = field(init=False, default=frozenset())
    """The last words of phrases."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(map(len, self.phrases), default=0))
        object.__setattr__(self, "last", frozenset(phrase[-1] for phrase in self.phrases))

    @property
    def inline_chars(self) -> int:
        return INLINE_INSPECTED_CHARS if self.sensitive or self.patterns else INLINE_WORD_CHARS

    @property
    def description(self) -> str:
        said = [f"Leave out these words: {', '.join(self.phrases.values())}."] if self.phrases else []
        if self.patterns:
            said.append(f"Nothing in the answer may match these regular expressions: {' '.join(self.patterns)}")
        if self.sensitive:
            said.append(f"Leave out sensitive data: {', '.join(sorted(self.sensitive))}.")
        return " ".join(said)

    def findings(self, text: str) -> Sequence[Finding]:
        said = [f"the answer has {phrase!r}, which is forbidden; leave it out" for phrase in self._present(text)]
        matching = [pattern for pattern in self.patterns if found(pattern).matches(text)]
        said += [f"the answer has what the regular expression {one} forbids; leave it out" for one in matching]
        if self.sensitive:  # told by kind: the finding goes to logs, ledgers and other targets
            kinds = sorted({span.kind for span in inspect(text)} & self.sensitive)
            said += [f"the answer has sensitive data of the kind {kind}; leave it out" for kind in kinds]
        return tuple(Finding(FindingKind.FORBIDDEN, one) for one in said)

    def reader(self) -> Listener:
        return Listener(self)

    def _present(self, text: str) -> list[str]:
        if not self.phrases:
            return []
        return list(dict.fromkeys(phrase for _, phrase in self.phrases_in(folded(text))))

    def phrases_in(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield every forbidden phrase of a folded text, with where it ends."""
        if self.last.isdisjoint(_WORD.findall(text)):
            return
        run: list[str] = []
        last = 0
        for word in _WORD.finditer(text):
            gap = text[last : word.start()]
            if len(gap) > MAX_GAP or not _GAP.fullmatch(gap):
                run.clear()
            run.append(word[0])
            del run[: -self.longest]
            last = word.end()
            for start in range(len(run)):
                if (phrase := self.phrases.get(tuple(run[start:]))) is not None:
                    yield last, phrase


class Listener:
    """Hears forbidden words in an answer on its way. Patterns and sensitive data are left to the end."""

    def __init__(self, rule: Forbidden) -> None:
        self._rule = rule
        self._tail = ""

    def take(self, piece: str) -> Finding | None:
        """Read what has arrived; return what is wrong where a forbidden word is whole."""
        if not self._rule.phrases:
            return None
        self._tail += folded(piece)
        for end, phrase in self._rule.phrases_in(self._tail):
            if end < len(self._tail):  # nothing can make the word longer
                return Finding(FindingKind.FORBIDDEN, f"the answer has {phrase!r}, which is forbidden; leave it out")
        self._tail = self._tail[self._kept() :]
        return None

    def _kept(self) -> int:
        """Where the words begin that a phrase may begin with."""
        starts = [word.start() for word in _WORD.finditer(self._tail)]
        if not starts:
            return max(0, len(self._tail) - MAX_GAP - 1)
        return starts[-self._rule.longest] if len(starts) >= self._rule.longest else 0

    def __repr__(self) -> str:
        return f"<Listener {len(self._rule.phrases)} phrases>"


def forbidden(settings: ForbiddenSettings) -> Forbidden:
    """Return the rule of `settings`."""
    phrases = {tuple(_WORD.findall(folded(words))): words for words in settings.words}
    return Forbidden(phrases, settings.patterns, settings.sensitive)


def folded(text: str) -> str:
    """Return `text` without case, accents and invisible signs. What is folded piece by piece is the same, joined."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in apart if unicodedata.category(sign) not in ("Mn", "Me", "Cf")).casefold()
