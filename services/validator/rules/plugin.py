"""Rules that other distributions bring, found by entry point. Their code runs in worker processes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from typing import Any, Final, Literal, Protocol

from pydantic import Field, TypeAdapter, ValidationError

from services.validator.rules.rule import RuleSettings
from services.validator.verdict import Finding, FindingKind
from spillway.errors import ConstraintUnsupported

GROUP: Final = "spillway.rules"
MAX_FINDINGS: Final = 32


class PluginSettings(RuleSettings):
    """A rule of a plugin, with its options."""

    kind: Literal["custom"]
    plugin: str = Field(description="its name among the entry points of the group spillway.rules")
    options: dict[str, Any] = Field(default={}, description="fields of the plugin's dataclass")


class PluginRule(Protocol):
    """What a plugin's entry point names: a dataclass whose fields are its options."""

    def judge(self, text: str) -> Iterable[str]:
        """Return what is wrong with the text of an answer: sentences that a model can act on."""
        ...


class PluginWrong(Exception):
    """A plugin cannot be used: `place` in its settings, and why."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self.place, self.why = place, why


@dataclass(frozen=True, slots=True)
class Plugin:
    """A rule of a plugin, where its code is not: what is told of it."""

    description: str
    distribution: str
    inline_chars: int = 0

    def findings(self, text: str) -> Sequence[Finding]:
        raise AssertionError("the code of plugins runs in worker processes alone")


UNPLUGGED: Final = Plugin("", "")
"""Of a plugin that is not loaded yet."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rule of a plugin, in the process that runs it."""

    rule: PluginRule
    description: str
    distribution: str
    max_chars: int
    """Longest message that is told, in characters."""
    inline_chars: int = 0

    def findings(self, text: str) -> Sequence[Finding]:
        """Return what the plugin says. Raises ConstraintUnsupported where it raises anything, or returns no texts."""
        try:
            said = [str(one)[: self.max_chars] for one in islice(self.rule.judge(text), MAX_FINDINGS)]
        # It is anybody's code: whatever it raises is its mistake, and its words may quote the answer.
        except Exception as error:
            raise ConstraintUnsupported(f"{self.distribution} raised {type(error).__name__}") from None
        return tuple(Finding(FindingKind.CUSTOM, one) for one in said)

    @property
    def told(self) -> Plugin:
        """The same, for who must not run it."""
        return Plugin(self.description, self.distribution)


def loaded(settings: PluginSettings, max_chars: int) -> Loaded:
    """Return the rule of `settings`, made of the options. Raises PluginWrong, naming the distribution."""
    entry = _entry(settings.plugin)
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a distribution"
    try:
        made = entry.load()
    # An import runs anybody's code; it is at the start, and the message is the operator's.
    except Exception as error:
        raise PluginWrong("plugin", f"{distribution} cannot be loaded: {type(error).__name__}: {error}") from None
    if not (isinstance(made, type) and is_dataclass(made) and callable(getattr(made, "judge", None))):
        raise PluginWrong("plugin", f"{distribution}: {entry.value} is no dataclass with a method `judge`")
    known = [one.name for one in fields(made) if one.init]
    if unknown := sorted(settings.options.keys() - set(known)):
        said = f"{distribution} has no such option; it has: {', '.join(known) or 'none'}"
        raise PluginWrong(f"options.{unknown[0]}", said)
    try:
        rule = TypeAdapter(made).validate_python(settings.options)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        raise PluginWrong(".".join(["options", *map(str, wrong["loc"])]), f"{distribution}: {wrong['msg']}") from None
    # As above: its options may make it raise anything.
    except Exception as error:
        raise PluginWrong("options", f"{distribution} raised {type(error).__name__}: {error}") from None
    description = str(getattr(rule, "description", "") or f"Keep to the rule {settings.plugin} of {distribution}.")
    return Loaded(rule, description[:max_chars], distribution, max_chars)


def _entry(name: str) -> EntryPoint:
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    whose = sorted({entry.dist.name for entry in found if entry.dist is not None})
    if len(whose) > 1:
        raise PluginWrong("plugin", f"{name!r} is brought by more than one distribution: {', '.join(whose)}")
    if not found:
        there = ", ".join(sorted({entry.name for entry in entry_points(group=GROUP)})) or "none"
        raise PluginWrong("plugin", f"no distribution brings {name!r} as an entry point of {GROUP}; there are: {there}")
    return found[0]
