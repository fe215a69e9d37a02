"""The rule that an answer is in one of certain languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from services.validator.rules.rule import RuleSettings
from services.validator.verdict import Finding, FindingKind

NAMES: Final = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "it": "Italian",
    "nl": "Dutch",
    "pt": "Portuguese",
    "pl": "Polish",
    "cs": "Czech",
    "sv": "Swedish",
    "da": "Danish",
    "no": "Norwegian",
    "fi": "Finnish",
    "hu": "Hungarian",
    "ro": "Romanian",
    "el": "Greek",
    "bg": "Bulgarian",
    "uk": "Ukrainian",
    "ru": "Russian",
    "tr": "Turkish",
    "ar": "Arabic",
    "he": "Hebrew",
    "hi": "Hindi",
    "ja": "Japanese",
    "ko": "Korean",
    "zh": "Chinese",
}
"""What can be asked for, as ISO 639-1 calls it."""
MIN_LETTERS: Final = 20
"""In a text with fewer letters, those of Chinese, Japanese and Korean counted double, the language is unknown."""
READ_CHARS: Final = 8 * 2**10
"""Of a longer text only so much is read."""
MARGIN: Final = 0.8
"""A language is another one where the best of those allowed scores less than this share of it."""


class LanguageSettings(RuleSettings):
    """Languages an answer may be in."""

    kind: Literal["language"]
    languages: tuple[str, ...] = Field(min_length=1, description="ISO 639-1: en, fr, de, es, ...")

    @field_validator("languages")
    @classmethod
    def _are_known(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [value for value in values if value not in NAMES]:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(NAMES)}")
        return values


@dataclass(frozen=True, slots=True)
class Language:
    """The answer is in one of `languages`, as far as that can be told."""

    languages: tuple[str, ...]
    inline_chars: int = 0
    """The detector's tables are kept out of the service's own process: 40 MB."""

    @property
    def description(self) -> str:
        return f"Answer in {_either(self.languages)}."

    def findings(self, text: str) -> Sequence[Finding]:
        text = text[:READ_CHARS]
        if sum((sign > "\u2e7f") + 1 for sign in text if sign.isalpha()) < MIN_LETTERS:
            return ()
        told = _detector().detect(text)
        spoken = told.language
        if spoken is None or spoken in self.languages or not told.is_reliable():
            return ()
        scores = told.scores()
        if max(scores.get(language, 0.0) for language in self.languages) > MARGIN * scores[spoken]:
            return ()
        said = f"the answer is in {NAMES.get(spoken, spoken)}; answer in {_either(self.languages)}"
        return (Finding(FindingKind.LANGUAGE, said),)


def language(settings: LanguageSettings) -> Language:
    """Return the rule of `settings`."""
    return Language(settings.languages)


@cache
def _detector() -> Any:
    # Here, since its tables take half a second and 40 MB, which processes without this rule are spared.
    from eld import LanguageDetector

    return LanguageDetector()


def _either(languages: Sequence[str]) -> str:
    return " or ".join(NAMES[language] for language in languages)
