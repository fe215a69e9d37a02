"""The rulebook: all policies of one document, and which of them a request gets. Pure.

A request's policy is the ground, replaced where its tenant's policy says so, then the policy of the first rule that its
facts match, then that of the alias it names. The last two follow from what the caller sends, so they may tighten what
content may do and cost, never loosen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from spillway.egress import UNRESOLVED, DataPolicy, Residency, Sensitivity

from .budget import Budget
from .cohorts import Cohorts
from .facts import ContextName, Delivery, Facts, StrategyName, Validation
from .inspection import sensitivity_of
from .plan import ContextLimits, Limits
from .policy import Policy
from .policy_settings import BudgetSettings, MatchSettings, PolicyDocument, PolicySettings
from .redaction import ALL, AS_IT_IS, Kinds, Redaction
from .target import Target

GROUND = "ground"


@dataclass(frozen=True, slots=True)
class Choice:
    """The policy a request gets, and what chose it; empty: the ground."""

    policy: Policy
    because: str
    unasked: DataPolicy
    """The data policy in force where nobody has asked for one."""

    def resolve(self, asked: DataPolicy) -> DataPolicy:
        """What `Policy.resolve` does. Doing it again changes nothing."""
        return self.unasked if asked is UNRESOLVED or asked is self.unasked else self.policy.resolve(asked)


@dataclass(slots=True)
class Rulebook:
    """One document, compiled. Never changes; a new document, or new addresses of its targets, is a new rulebook."""

    document: PolicyDocument
    revision: str
    declared: tuple[Target, ...] = field(init=False)
    """As the document has them."""
    cohorts: Cohorts = field(init=False)
    _made: dict[tuple[str, int, str], Choice] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.declared = tuple(map(Target.declared, self.document.targets))
        self.cohorts = Cohorts(self.declared)

    def over(self, targets: Iterable[Target]) -> Rulebook:
        """The same rules over what its targets' addresses resolve to."""
        book = copy(self)
        book.cohorts = Cohorts(targets)
        return book

    @property
    def targets(self) -> tuple[Target, ...]:
        """All that can be chosen among, in the order of the document."""
        return self.cohorts.targets

    def bound(self, asked: DataPolicy, tenant: str) -> DataPolicy:
        """Return the data policy in force for `tenant` before any rule is read, where so much was asked for."""
        return self._choice(self._known(tenant), -1, "").resolve(asked)

    def read(self, facts: Facts) -> tuple[Facts, Policy]:
        """Return `facts` with what is in force for them, and their policy.

        The data policy of the facts given is what the caller and earlier routers asked for, `bound` or not, their model
        what the caller said. What an inspection found raises the data policy, and the rules are read with it.
        """
        found, policy = self._read(facts)
        inspection = facts.inspection
        if inspection is None or not (inspection.raises or policy.raises(found)):
            return found, policy
        # Another policy may think worse of what was found. Each turn raises, so it ends.
        while _looser(found.data_policy, demanded := inspection.demands(policy.sensitivity_of)):
            found, policy = self._read(replace(facts, data_policy=found.data_policy.tightened(demanded)))
        return replace(found, declared=policy.resolve(facts.data_policy)), policy

    def _read(self, facts: Facts) -> tuple[Facts, Policy]:
        rules, aliases = self.document.rules, self.document.aliases
        tenant = self._known(facts.tenant)
        alias = facts.model if facts.model in aliases else ""
        choice = self._choice(tenant, -1, "")
        data_policy = choice.resolve(facts.data_policy)
        rule = -1
        if rules:
            known = replace(facts, data_policy=data_policy)
            rule = next((place for place, rule in enumerate(rules) if matches(rule.when, known)), -1)
        if rule >= 0 or alias:
            choice = self._choice(tenant, rule, alias)
            data_policy = choice.resolve(data_policy)
        elif data_policy is facts.data_policy and choice.because == facts.policy_because:
            return facts, choice.policy
        facts = replace(
            facts,
            data_policy=data_policy,
            model=aliases[alias].model if alias else facts.model,
            policy_because=choice.because,
        )
        return facts, choice.policy

    def _known(self, tenant: str) -> str:
        """`tenant`, or an empty word for one that has no policy of its own."""
        return tenant if tenant in self.document.tenants else ""

    def _choice(self, tenant: str, rule: int, alias: str) -> Choice:
        key = (tenant, rule, alias)
        if (made := self._made.get(key)) is None:
            made = self._made[key] = self._make(*key)
        return made

    def _make(self, tenant: str, rule: int, alias: str) -> Choice:
        document = self.document
        names = []
        policy = document.policy.model_dump()
        if tenant:
            name = document.tenants[tenant].use
            policy.update(document.policies[name].model_dump(exclude_unset=True))
            names.append((name, f"tenant {tenant!r}"))
        chosen_by_request = []
        if rule >= 0:
            chosen_by_request.append((document.rules[rule].use, f"rule {document.rules[rule].name!r}"))
        if alias and document.aliases[alias].use:
            chosen_by_request.append((document.aliases[alias].use, f"alias {alias!r}"))
        floor = Sensitivity.UNSPECIFIED
        for name, _ in chosen_by_request:
            policy = tightened(policy, document.policies[name])
            floor = max(floor, data_policy(document.policies[name].model_dump(exclude_unset=True)).sensitivity)
        names += chosen_by_request
        last = names[-1][0] if names else GROUND
        made = compiled(PolicySettings.model_validate(policy), self.revision, name=last, sensitivity_floor=floor)
        because = ", ".join(f"policy {name} by {cause}" for name, cause in names)
        return Choice(made, because, made.resolve(UNRESOLVED))

    def __repr__(self) -> str:
        return f"<Rulebook {self.revision} {len(self.targets)} targets {len(self.document.rules)} rules>"


def _looser(in_force: DataPolicy, demanded: DataPolicy) -> bool:
    return in_force.sensitivity < demanded.sensitivity or in_force.residency < demanded.residency


def matches(when: MatchSettings, facts: Facts) -> bool:
    """Whether `facts` have all that `when` asks for."""
    return (
        _is_among(facts.task, when.tasks)
        and _is_among(facts.category.name.lower(), when.categories)
        and (when.labels is None or not when.labels.isdisjoint(facts.labels))
        and _is_among(facts.model, when.models)
        and _is_among(facts.tenant, when.tenants)
        and when.priority in (None, facts.priority)
        and (
            when.sensitivity_at_least is None
            or facts.data_policy.sensitivity >= Sensitivity[when.sensitivity_at_least.upper()]
        )
        and (when.needs is None or when.needs <= facts.needs)
        and when.json_answer in (None, facts.json)
        and when.injection in (None, facts.inspection is not None and facts.inspection.marked)
        and (when.prompt_tokens_over is None or facts.prompt_tokens > when.prompt_tokens_over)
        and (when.prompt_tokens_up_to is None or facts.prompt_tokens <= when.prompt_tokens_up_to)
    )


def _is_among(word: str, words: frozenset[Any] | None) -> bool:
    return words is None or word in words


def tightened(ground: Mapping[str, Any], above: PolicySettings) -> dict[str, Any]:
    """Return `ground` with what `above` sets laid over it; what concerns content and cost only gets tighter."""
    stated = above.model_dump(exclude_unset=True)
    both = {**ground, **stated}
    data = data_policy(ground).tightened(data_policy(stated))
    both["residency"] = data.residency.name.lower()
    both["regions"] = data.regions
    both["sensitivity"] = data.sensitivity.name.lower()
    both["max_retention_days"] = data.max_retention_days
    both["inspect"] = ground["inspect"] or both["inspect"]
    both["judgements"] = ground["judgements"] | both["judgements"]
    both["repair"] = "forbidden" if "forbidden" in (ground["repair"], both["repair"]) else "allowed"
    both["redact"] = _more_redacted(ground["redact"], stated.get("redact"))
    kinds, more = levels(ground["sensitivity_of"]), levels(above.sensitivity_of)
    raised = {kind: max(level, sensitivity_of(kind, kinds)) for kind, level in more.items()}
    both["sensitivity_of"] = {kind: level.name.lower() for kind, level in {**kinds, **raised}.items()}
    limits = [ground["cloud_sensitivity_limit"], both["cloud_sensitivity_limit"]]
    both["cloud_sensitivity_limit"] = min(limits, key=lambda name: Sensitivity[name.upper()])
    caps = [cap for cap in (ground["max_cost_usd"], both["max_cost_usd"]) if cap is not None]
    both["max_cost_usd"] = min(caps, default=None)
    allowed = all(one["unknown_price"] == "allow" for one in (ground, both))
    both["unknown_price"] = "allow" if allowed else "leave_out"
    both["budget"] = _tighter(ground["budget"], stated.get("budget"))
    floors = ground["min_bits_for"]
    both["min_bits_for"] = {**floors, **{t: max(bits, floors.get(t, 0)) for t, bits in both["min_bits_for"].items()}}
    return both


def redaction(stated: Mapping[str, Any] | None) -> Redaction:
    """What settings say of redaction; None: nothing."""
    if stated is None:
        return AS_IT_IS
    kinds, releases = stated.get("kinds", ALL), stated.get("releases")
    return Redaction(Kinds.stated(kinds), Kinds.stated(kinds if releases is None else releases))


def _more_redacted(ground: Mapping[str, Any] | None, above: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The redaction of two. Who chooses a policy by what they send cannot have more released by it."""
    if above is None:
        return ground
    both = redaction(ground).tightened(redaction(above))
    return {"kinds": both.kinds.told, "releases": both.releases.told}


def levels(stated: Mapping[str, str]) -> dict[str, Sensitivity]:
    """The sensitivities of kinds that settings state."""
    return {kind: Sensitivity[level.upper()] for kind, level in stated.items()}


def _tighter(ground: Mapping[str, Any] | None, above: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The budget of two: the lower cap of each period, and the stricter word."""
    stated = [budget for budget in (ground, above) if budget is not None]
    if not stated:
        return None
    found: dict[str, Any] = {}
    for name in ("usd_per_day", "usd_per_month"):
        found[name] = min((cap for one in stated if (cap := one.get(name)) is not None), default=None)
    found["when_spent"] = "refuse" if any(one.get("when_spent") == "refuse" for one in stated) else "local"
    allowed = all(one.get("unknown_price") == "allow" for one in stated)
    found["unknown_price"] = "allow" if allowed else "leave_out"
    return found


def data_policy(settings: Mapping[str, Any]) -> DataPolicy:
    """The data policy that `settings` state, as far as they state one."""
    return DataPolicy(
        Residency[settings.get("residency", "unspecified").upper()],
        frozenset(settings.get("regions", ())),
        Sensitivity[settings.get("sensitivity", "unspecified").upper()],
        settings.get("max_retention_days"),
    )


def compiled(
    settings: PolicySettings,
    revision: str,
    *,
    name: str = GROUND,
    sensitivity_floor: Sensitivity = Sensitivity.UNSPECIFIED,
) -> Policy:
    """The rules that `settings` state."""
    return Policy(
        name=name,
        revision=revision,
        data_policy=data_policy(settings.model_dump()),
        sensitivity_floor=sensitivity_floor,
        local_context_limit=settings.local_context_limit,
        complex_prefers=settings.complex_prefers,
        cloud_sensitivity_limit=Sensitivity[settings.cloud_sensitivity_limit.upper()],
        min_bits_for={str(task): bits for task, bits in settings.min_bits_for.items()},
        order=settings.order,
        # 1 USD is 1e9 nano-USD.
        max_cost_nano_usd=None if settings.max_cost_usd is None else round(settings.max_cost_usd * 1e9),
        unpriced=settings.unknown_price == "allow",
        budget=None if settings.budget is None else _budget(settings.budget),
        delivery=Delivery[settings.delivery.upper()] if settings.delivery else Delivery.UNSPECIFIED,
        validation=Validation[settings.validation.upper()] if settings.validation else Validation.UNSPECIFIED,
        judgements=settings.judgements,
        mends=settings.repair == "allowed",
        strategy=StrategyName[settings.strategy.upper()],
        limits=Limits(
            constrained_retries=settings.constrained_retries,
            max_retries_per_target=settings.max_retries_per_target,
            first_token_share=settings.first_token_share,
            idle_s=settings.idle_s,
            probe_tokens=settings.probe_tokens,
            confidence_threshold=settings.confidence_threshold,
            samples=settings.samples,
            hedge_after_s=settings.hedge_after_s,
            max_attempts=settings.max_attempts,
            continue_on=settings.continue_on,
        ),
        when_all_open=settings.when_all_open,
        context=ContextName[settings.context.upper()],
        context_limits=ContextLimits(
            keep_last_turns=settings.keep_last_turns,
            summary_tokens=settings.summary_tokens,
            chunk_tokens=settings.chunk_tokens,
            max_chunks=settings.max_chunks,
        ),
        mixes_vectors=settings.embed_with == "any_model",
        inspect=settings.inspect,
        judge=settings.judge,
        sensitivity_of=levels(settings.sensitivity_of),
        redaction=redaction(None if settings.redact is None else settings.redact.model_dump()),
    )


def _budget(settings: BudgetSettings) -> Budget:
    day, month = settings.usd_per_day, settings.usd_per_month
    return Budget(
        day=None if day is None else round(day * 1e9),
        month=None if month is None else round(month * 1e9),
        refuse=settings.when_spent == "refuse",
        unpriced=settings.unknown_price == "allow",
    )
