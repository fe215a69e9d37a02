"""The rule that an answer is one of a list."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from services.validator.rules.rule import Form, RuleSettings
from services.validator.verdict import Constraint


class ChoicesSettings(RuleSettings):
    """Exactly one of these, white space around it aside."""

    kind: Literal["choices"]
    values: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)


def choices_form(settings: ChoicesSettings) -> Form:
    """Return the rule of `settings`."""
    said = ", ".join(json.dumps(value, ensure_ascii=False) for value in settings.values)
    return Form(f"Answer with one of these alone: {said}", Constraint("choices", choices=settings.values))
