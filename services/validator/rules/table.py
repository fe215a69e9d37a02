"""From the settings of rules to rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import Discriminator, Tag

from services.validator.rules.choices import ChoicesSettings, choices_form
from services.validator.rules.forbidden import ForbiddenSettings, forbidden
from services.validator.rules.json_value import JsonSettings, json_form
from services.validator.rules.language import LanguageSettings, language
from services.validator.rules.length import LengthSettings, length
from services.validator.rules.plugin import PluginSettings
from services.validator.rules.regex import RegexSettings, regex_rule
from services.validator.rules.rule import Form, Rule, RuleSettings


def _kind(said: Any) -> Any:
    return said.get("kind") if isinstance(said, Mapping) else getattr(said, "kind", None)


AnyRuleSettings = Annotated[
    Annotated[JsonSettings, Tag("json")]
    | Annotated[RegexSettings, Tag("regex")]
    | Annotated[ChoicesSettings, Tag("choices")]
    | Annotated[LengthSettings, Tag("length")]
    | Annotated[LanguageSettings, Tag("language")]
    | Annotated[ForbiddenSettings, Tag("forbidden")]
    | Annotated[PluginSettings, Tag("custom")],
    Discriminator(
        _kind,
        custom_error_type="rule_kind",
        custom_error_message="`kind` is one of json, regex, choices, length, language, forbidden, custom",
    ),
]
CONSTRUCTORS: Final[Mapping[type[RuleSettings], Callable[[Any], Form | Rule]]] = {
    JsonSettings: json_form,
    RegexSettings: regex_rule,
    ChoicesSettings: choices_form,
    LengthSettings: length,
    LanguageSettings: language,
    ForbiddenSettings: forbidden,
}
"""How each kind is made, but for plugins: those are loaded where they run."""


def made(settings: RuleSettings) -> Form | Rule:
    """Return the rule of `settings`."""
    return CONSTRUCTORS[type(settings)](settings)
