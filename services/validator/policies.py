"""Policies of judgement: rules by name, and what several of them together hold an answer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from services.validator.policy_settings import JudgementPolicySettings
from services.validator.rules.plugin import UNPLUGGED, Plugin, PluginSettings
from services.validator.rules.rule import Early, Form, Reader, Rule, RuleSettings
from services.validator.rules.table import AnyRuleSettings, made
from services.validator.verdict import Constraint
from spillway.errors import FieldViolation, RequestInvalid


@dataclass(frozen=True, slots=True)
class Held:
    """A rule of a policy."""

    policy: str
    name: str
    settings: RuleSettings
    kind: str
    place: str
    """Where its settings stand."""
    rule: Form | Rule

    @property
    def called(self) -> str:
        """As findings call it: POLICY.RULE."""
        return f"{self.policy}.{self.name}"

    @property
    def plugged(self) -> bool:
        """Its code is a plugin's."""
        return isinstance(self.settings, PluginSettings)

    @property
    def distribution(self) -> str:
        """Who brought it, where that is a plugin."""
        return self.rule.distribution if isinstance(self.rule, Plugin) else ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules that answers are held to under one name."""

    name: str
    description: str
    mends: bool
    rules: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Standard:
    """What all policies that one request names hold its answers to."""

    rules: tuple[Held, ...] = ()
    mends: bool = True
    """Broken JSON may be mended."""

    def steps(self, constraint: Constraint) -> list[tuple[str, Constraint]]:
        """Return `constraint` and all forms, each with its rule's name, in the order they are judged.

        JSON comes first: what is found of it in an answer is what the others judge.
        """
        forms = [(held.called, held.rule.constraint) for held in self.rules if isinstance(held.rule, Form)]
        every = [("", constraint), *forms]
        if not (self.mends and constraint.repair):
            every = [(name, replace(one, repair=False)) for name, one in every]
        return sorted(every, key=lambda step: not step[1].json)

    def readers(self, constraint: Constraint) -> list[tuple[str, Reader]]:
        """Return who reads an answer on its way; nobody where it is JSON, which may stand in other text."""
        if any(step.json for _, step in self.steps(constraint)):
            return []
        return [(held.called, held.rule.reader()) for held in self.rules if isinstance(held.rule, Early)]

    @property
    def texts(self) -> tuple[Held, ...]:
        """The rules over texts."""
        return tuple(held for held in self.rules if not isinstance(held.rule, Form))

    @property
    def wishes(self) -> list[str]:
        """What all rules ask for."""
        return [held.rule.description for held in self.rules]


NOTHING = Standard()
"""No policy is named."""


class Policies:
    """All policies there are, by name."""

    def __init__(self, settings: Mapping[str, JudgementPolicySettings]) -> None:
        self._policies = {name: _policy(name, stated) for name, stated in sorted(settings.items())}

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._policies.values())

    @property
    def rules(self) -> list[Held]:
        """All rules of all policies."""
        return [held for policy in self for held in policy.rules]

    def plug(self, plugins: Mapping[str, Plugin]) -> None:
        """Put what is told of plugins, by where their settings stand, in the place of their rules."""
        for name, policy in self._policies.items():
            rules = tuple(replace(held, rule=plugins.get(held.place, held.rule)) for held in policy.rules)
            self._policies[name] = replace(policy, rules=rules)

    def named(self, names: Sequence[str]) -> Standard:
        """Return what the policies of these names ask for, each counted once. Raises RequestInvalid for others."""
        if not names:
            return NOTHING
        unknown = [
            FieldViolation(f"policies[{index}]", f"{name[:100]!r} is not a policy here; there are: {self._there}")
            for index, name in enumerate(names)
            if name not in self._policies
        ]
        if unknown:
            raise RequestInvalid("; ".join(f"{one.field}: {one.description}" for one in unknown[:3]), fields=unknown)
        found = [self._policies[name] for name in dict.fromkeys(names)]
        return Standard(tuple(held for policy in found for held in policy.rules), all(policy.mends for policy in found))

    @property
    def _there(self) -> str:
        return ", ".join(self._policies) or "none"

    def __repr__(self) -> str:
        return f"<Policies {self._there}>"


def _policy(name: str, stated: JudgementPolicySettings) -> Policy:
    rules = tuple(_held(name, index, rule) for index, rule in enumerate(stated.rules))
    return Policy(name, stated.description, stated.repair == "allowed", rules)


def _held(policy: str, index: int, settings: AnyRuleSettings) -> Held:
    rule: Form | Rule = UNPLUGGED if isinstance(settings, PluginSettings) else made(settings)
    place = f"validator.policies.{policy}.rules[{index}]"
    return Held(policy, settings.name or settings.kind, settings, settings.kind, place, rule)
