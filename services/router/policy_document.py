"""A policy document read from text, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from spillway.settings import SettingsError, mapping, mistake, read_yaml

from .address import stands_for_many, written
from .policy_settings import MatchSettings, PolicyDocument, PolicySettings
from .rulebook import Rulebook

READY = {path.stem: path for path in sorted((Path(__file__).parent / "ready").glob("*.yaml"))}
"""Name -> document, for what can be included."""
PLACES = frozenset({"small", "large", "local", "cloud"})
"""Words of `order` that stand for many targets."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at: its path in the document, and a sentence. A fatal one keeps the document out."""

    path: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.fatal else 'warning'}: {self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Opened:
    """A document that was looked at: what is to say about it, and its rules unless something is fatal."""

    findings: tuple[Finding, ...]
    book: Rulebook | None = None

    def in_force(self, path: str) -> Rulebook:
        """The rules; raises SettingsError with the findings where they cannot be put in force."""
        if self.book is None:
            raise SettingsError("\n".join(f"{path}{finding.path}: {finding.message}" for finding in self.findings))
        return self.book


def read(text: bytes | str) -> Opened:
    """Open a document as it is written."""
    try:
        return opened(PolicyDocument.model_validate(mapping(yaml.safe_load(text), "policy")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = mistake(error) if isinstance(error, yaml.YAMLError) else "not UTF-8 text"
        return Opened((Finding("policy", f"is not YAML: {why}"),))
    except ValidationError as error:
        return Opened(tuple(_misfits(error)))
    except SettingsError as error:
        return Opened((Finding("policy", str(error)),))


def opened(document: PolicyDocument) -> Opened:
    """Open a document that has the right form."""
    unknown = [(place, name) for place, name in enumerate(document.include) if name not in READY]
    if unknown:
        known = ", ".join(READY)
        return Opened(
            tuple(Finding(f"include[{at}]", f"{name!r} is not ready made; known: {known}") for at, name in unknown)
        )
    document = included(document)
    findings = tuple(examine(document))
    if any(finding.fatal for finding in findings):
        return Opened(findings)
    return Opened(findings, Rulebook(document, document.revision or digest(document)))


def included(document: PolicyDocument) -> PolicyDocument:
    """The document with what it includes laid under it."""
    policies, rules = dict(document.policies), list(document.rules)
    for name in document.include:
        ready = PolicyDocument.model_validate(read_yaml(READY[name]))
        policies = {**ready.policies, **policies}
        rules += ready.rules
    return document.model_copy(update={"policies": policies, "rules": tuple(rules)})


def digest(document: PolicyDocument) -> str:
    """A short name for what the document says, the same in every process."""
    said = document.model_dump(include=set(PolicyDocument.model_fields))
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=sorted).encode()).hexdigest()[:12]


def examine(document: PolicyDocument) -> Iterator[Finding]:
    """Yield what is wrong between the parts of a document that has the right form."""
    if not document.targets:
        yield Finding("targets", "is empty: name at least one target")
    for name, count in Counter(target.name for target in document.targets).items():
        if count > 1:
            yield Finding("targets", f"{name!r} is there {count} times")
    for place, target in enumerate(document.targets):
        if stands_for_many(target.address, target.resolve):
            try:
                written(target.address)
            except ValueError as error:
                yield Finding(f"targets[{place}].address", f"cannot be resolved: {error}")
    names = {target.name for target in document.targets}
    for path, policy in (("policy", document.policy), *((f"policies.{n}", p) for n, p in document.policies.items())):
        for place, entry in enumerate(policy.order):
            if entry not in PLACES | names:
                known = ", ".join(sorted(PLACES | names))
                yield Finding(f"{path}.order[{place}]", f"{entry!r} is no target, tier or kind; known: {known}")
        if policy.judge and policy.judge not in names:
            yield Finding(f"{path}.judge", f"{policy.judge!r} is no target; known: {', '.join(sorted(names))}")
        yield from _unknowns(path, policy, document)
        if policy.residency == "regions" and not policy.regions:
            yield Finding(f"{path}.regions", "is empty, so with residency `regions` nothing leaves the site", False)
    uses = [(f"rules[{place}].use", rule.use) for place, rule in enumerate(document.rules)]
    uses += [(f"aliases.{name}.use", alias.use) for name, alias in document.aliases.items() if alias.use]
    uses += [(f"tenants.{name}.use", tenant.use) for name, tenant in document.tenants.items()]
    for path, use in uses:
        if use not in document.policies:
            known = ", ".join(document.policies) or "none"
            yield Finding(path, f"{use!r} is no named policy; known: {known}")
    used = {use for _, use in uses}
    for name in document.policies:
        if name not in used:
            yield Finding(f"policies.{name}", "nothing uses it", False)
    models = names | {target.model for target in document.targets}
    for name, alias in document.aliases.items():
        if alias.model and alias.model not in models:
            yield Finding(f"aliases.{name}.model", f"{alias.model!r} is served by no target")
        if name in models:
            yield Finding(f"aliases.{name}", "hides the target or model of this name", False)
    yield from _unreachable(document)


def _unknowns(path: str, policy: PolicySettings, document: PolicyDocument) -> Iterator[Finding]:
    """What `policy` leaves out because nobody has declared it."""
    unpriced = [target.name for target in document.targets if target.price is None]
    keeping = [each.name for each in document.targets if each.kind == "cloud" and each.retention_days is None]
    for field, binds, of, targets in (
        ("budget", policy.budget is not None and policy.budget.unknown_price == "leave_out", "price", unpriced),
        ("max_cost_usd", policy.max_cost_usd is not None and policy.unknown_price == "leave_out", "price", unpriced),
        ("max_retention_days", policy.max_retention_days is not None, "retention", keeping),
    ):
        if binds and targets:
            yield Finding(f"{path}.{field}", f"leaves out targets of unknown {of}: {', '.join(targets[:20])}", False)


def _unreachable(document: PolicyDocument) -> Iterator[Finding]:
    for place, rule in enumerate(document.rules[:-1]):
        if rule.when == MatchSettings():
            yield Finding(
                f"rules[{place + 1}]", f"is never reached: rule {rule.name!r} before it matches everything", False
            )
            return


def _misfits(error: ValidationError) -> Iterator[Finding]:
    for found in error.errors(include_url=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]).lstrip(".")
        unknown = found["type"] == "extra_forbidden"
        yield Finding(path or "policy", "unknown setting" if unknown else str(found["msg"]))
