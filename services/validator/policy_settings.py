"""Policies of judgement as the configuration states them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from services.validator.rules.table import AnyRuleSettings
from spillway.settings import Section

_NAME = re.compile(r"\w[\w-]{0,63}")


def named(policies: dict[str, JudgementPolicySettings]) -> dict[str, JudgementPolicySettings]:
    """Return `policies`. Raises ValueError for a name that cannot stand in a header or before a rule's."""
    for name in policies:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a name: it takes letters, digits, _ and -, at most 64")
    return policies


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


JudgementPoliciesSettings = Annotated[dict[str, JudgementPolicySettings], AfterValidator(named)]
