"""Policies of judgement as the configuration states them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from services.validator.rules.table import AnyRuleSettings
from spillway.settings import Section

PolicyName = Annotated[str, StringConstraints(pattern=r"^\w[\w-]{0,63}$")]


class JudgementPolicySettings(Section):
    """Rules that answers are held to under one name. All of them hold."""

    description: str = ""
    repair: Literal["allowed", "forbidden"] = Field(
        "allowed", description="forbidden: broken JSON is never mended, whatever the request says"
    )
    rules: tuple[AnyRuleSettings, ...] = ()

    @model_validator(mode="after")
    def _is_no_empty_word(self) -> Self:
        if not self.rules and self.repair == "allowed":
            raise ValueError("asks for nothing: give `rules`, or `repair: forbidden`")
        names = [rule.name or rule.kind for rule in self.rules]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two rules are called {twice[0]!r}: give each a `name`")
        return self
