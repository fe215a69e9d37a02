"""Policy: which targets may answer a request, and in which order. Pure: facts and targets in, a plan out.

Precedence: data policy, then model and wishes of the caller, then the owner's order, then capability and context, then
category, then cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

from spillway.egress import UNRESOLVED, DataPolicy, Residency, Sensitivity

from .breaker import SOUND, Standing, State
from .budget import Budget
from .facts import Category, ContextName, Delivery, Facts, StrategyName, Validation
from .plan import CONDENSED, PATIENCE, Candidate, ContextLimits, Limits, Plan
from .quotas import UNTOLD, Quota, with_room_first
from .redaction import AS_IT_IS, Redaction
from .replicas import IDLE, Occupancy, spread
from .target import Target

HEALTHY: Mapping[str, Standing] = {}
"""No breaker holds anything against a target."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force for one request. Fields as in `policy_settings.PolicySettings`."""

    name: str = ""
    revision: str = "1"
    data_policy: DataPolicy = UNRESOLVED
    sensitivity_floor: Sensitivity = Sensitivity.UNSPECIFIED
    """Content is at least this sensitive, whatever its caller says."""
    local_context_limit: int = 4096
    complex_prefers: str = "large"
    cloud_sensitivity_limit: Sensitivity = Sensitivity.INTERNAL
    min_bits_for: Mapping[str, int] | None = None
    order: tuple[str, ...] = ()
    max_cost_nano_usd: int | None = None
    unpriced: bool = False
    """What has no known price passes `max_cost_nano_usd`."""
    budget: Budget | None = None
    delivery: Delivery = Delivery.UNSPECIFIED
    validation: Validation = Validation.UNSPECIFIED
    judgements: frozenset[str] = frozenset()
    mends: bool = True
    strategy: StrategyName = StrategyName.DIRECT
    limits: Limits = PATIENCE
    when_all_open: str = "try"
    context: ContextName = ContextName.LARGER
    context_limits: ContextLimits = CONDENSED
    mixes_vectors: bool = False
    """Targets of different models embed for one another."""
    inspect: bool = False
    judge: str = ""
    sensitivity_of: Mapping[str, Sensitivity] = field(default_factory=dict)
    redaction: Redaction = AS_IT_IS

    def resolve(self, asked: DataPolicy) -> DataPolicy:
        """The data policy in force: the owner's, tightened by what was asked; what is not said is as the owner says."""
        return _in_force(self.data_policy, self.sensitivity_floor, asked)

    def inspects(self, facts: Facts) -> bool:
        """Whether the prompt is to be inspected now: it has not been, and what is found could change something."""
        data = facts.data_policy
        if facts.inspection is not None or data.residency is Residency.LOCAL_ONLY:
            return False
        return bool(self.redacts(facts).kinds) or (self.raises(facts) and data.sensitivity < Sensitivity.RESTRICTED)

    def raises(self, facts: Facts) -> bool:
        """Whether what is found in the prompt raises its sensitivity."""
        return self.inspect or facts.inspect or bool(self.redaction.releases)

    def redacts(self, facts: Facts) -> Redaction:
        """What is done to the content where it leaves the site."""
        return self.redaction.asked() if facts.redact else self.redaction

    def leaving(self, facts: Facts) -> DataPolicy:
        """What binds the content where it leaves the site, redacted: all that was stated, and findings that stay in."""
        if facts.declared is None or facts.inspection is None:
            return facts.data_policy
        left_in = facts.inspection.without(self.redaction.releases)
        return facts.declared.tightened(left_in.demands(self.sensitivity_of))

    def judges(self, facts: Facts) -> tuple[str, ...]:
        """The judgement policies that an answer is held to: the owner's, and those its caller adds."""
        asked = self.judgements or facts.judgements
        return () if not asked or facts.aside or facts.embeds else tuple(sorted(self.judgements | facts.judgements))

    def names(self, facts: Facts) -> set[str]:
        """What the request and the policy call targets by."""
        return {facts.model, *facts.allowed, *self.order, self.judge}

    def decide(
        self,
        facts: Facts,
        targets: Sequence[Target],
        standings: Mapping[str, Standing] = HEALTHY,
        draw: float = 0.0,
        loads: Mapping[str, Occupancy] = IDLE,
        quotas: Mapping[str, Quota] = UNTOLD,
        now: float = 0.0,
    ) -> Plan:
        """Choose among `targets`. A plan may have taken none: `refusal` then says why.

        `standings` say what breakers hold against targets, `loads` how busy they are, `quotas` what is left of their
        limits at `now`, all by name; `draw` is the request's own number in [0, 1). Loads decide among equals. Quotas
        are advice: who has no room comes last. Where nothing else may answer, an open breaker is advice, or bars all,
        by policy.
        """
        taken: list[Candidate] = []
        left_out: list[Candidate] = []
        for target in targets:
            candidate = self._weigh(facts, target)
            (taken if candidate.taken else left_out).append(candidate)
        taken.sort(key=lambda candidate: -candidate.score)  # stable: among equals as they are declared
        context = facts.context or self.context
        refusing = {
            "context": context is ContextName.REFUSE and "context is refuse",
            "budget": self.budget is not None and self.budget.refuse and "when_spent is refuse",
        }
        for rule, because in refusing.items():
            if because and taken and (first := self._ahead_but_for(rule, facts, left_out, taken[0].score)):
                why = f"{first.name} would come first and {because}"
                left_out += [Candidate(candidate.target, (why,), left_out_by=rule) for candidate in taken]
                del taken[:]
        barred = [each for each in taken if standings and standings.get(each.target.name, SOUND).objection(draw)]
        advice = bool(barred) and len(barred) == len(taken)
        opens_in_s = None
        if advice and self.when_all_open != "try":
            advice = False
            # Rather one that is getting a share of the requests again than none.
            barred = [each for each in barred if standings[each.target.name].state is not State.CLOSED]
            if len(barred) == len(taken):
                opens_in_s = min(standings[each.target.name].left_s for each in barred)
        if barred and not advice:
            taken = [candidate for candidate in taken if candidate not in barred]
            left_out += [
                replace(out, reasons=(standings[out.target.name].objection(draw),), left_out_by="breaker")
                for out in barred
            ]
        if quotas or len(taken) > 1:
            taken = with_room_first(taken, quotas, facts, now, partial(spread, loads=loads, session=facts.session))
        if not facts.failover:
            left_out += [
                Candidate(candidate.target, ("failover is off and another target comes first",), left_out_by="failover")
                for candidate in taken[1:]
            ]
            del taken[1:]
        judgements = self.judges(facts)
        bound = bool(judgements) and bool(self.judgements)  # by the owner: no word of the caller gets around it
        judged = Validation.REQUIRED if facts.json or judgements else Validation.OFF
        validation = facts.validation or self.validation or judged
        if bound:
            validation = max(validation, self.validation or judged)
        strategy, why = self._strategy(facts, taken)
        whole = Delivery.COMMITTED if validation is not Validation.OFF else Delivery.LIVE
        held = strategy in WHOLE or (bound and validation is not Validation.OFF)
        delivery = Delivery.COMMITTED if held else facts.delivery or self.delivery or whole
        limits = self.limits
        if facts.confidence_threshold is not None:
            limits = replace(limits, confidence_threshold=facts.confidence_threshold)
        if facts.samples is not None:
            limits = replace(limits, samples=facts.samples)
        if taken:
            reason = f"{taken[0].target.name}: {taken[0].reasons[0]}"
        else:
            reason = "no target may answer: " + "; ".join(f"{out.target.name}: {out.reasons[0]}" for out in left_out)
        if validation is Validation.OFF:
            judgements = ()
        judging = f"held to {', '.join(judgements)}" if judgements else ""
        inspected = facts.inspection.told if facts.inspection is not None else ""
        one_by_one = strategy is StrategyName.DIRECT and validation is not Validation.OFF
        at_once = "records come all at once" if facts.records and not one_by_one else ""
        return Plan(
            facts,
            tuple(taken),
            tuple(left_out),
            delivery,
            validation,
            strategy,
            limits,
            self.name,
            self.revision,
            "; ".join(part for part in (facts.policy_because, inspected, judging, why, at_once, reason) if part),
            advice,
            self.when_all_open,
            opens_in_s,
            context,
            budget=self.budget,
            judgements=judgements,
            mends=self.mends,
            stays=facts.data_policy.sensitivity > self.cloud_sensitivity_limit,
            records=facts.records and one_by_one,
            redaction=self.redacts(facts),
            leaving=self.leaving(facts),
        )

    def could(self, facts: Facts, target: Target, rules: Iterable[str]) -> bool:
        """Whether none of these `rules` objects to `target`."""
        return not any(OBJECTIONS[rule](self, facts, target) for rule in rules)

    def _ahead_but_for(self, rule: str, facts: Facts, left_out: Sequence[Candidate], score: float) -> Target | None:
        """Return a target that would be ahead of `score`, did `rule` alone not leave it out."""
        for out in left_out:
            others = (objection for name, objection in OBJECTIONS.items() if name != rule)
            alone = out.left_out_by == rule and not any(why(self, facts, out.target) for why in others)
            if alone and self._score(facts, out.target)[1] > score:
                return out.target
        return None

    def _strategy(self, facts: Facts, taken: Sequence[Candidate]) -> tuple[StrategyName, str]:
        """Return how the plan is carried out, and why it is not as it was asked."""
        wanted = facts.strategy or self.strategy
        if wanted is StrategyName.DIRECT or facts.embeds:
            return StrategyName.DIRECT, ""
        name = wanted.name.lower()
        if len({candidate.target.called for candidate in taken}) < 2:
            return StrategyName.DIRECT, f"{name} needs two targets, so direct"
        if wanted in DRAFTING and not facts.chat:
            return StrategyName.DIRECT, f"{name} needs a chat, so direct"
        if wanted is StrategyName.DRAFT_VERIFY and (facts.constrained or self.judges(facts)):
            free = "answers that nothing judges" if not facts.constrained else "free text"
            return StrategyName.CASCADE, f"{name} is for {free}, so cascade"
        return wanted, f"strategy {name}"

    def _weigh(self, facts: Facts, target: Target) -> Candidate:
        for rule, objection in OBJECTIONS.items():
            if why := objection(self, facts, target):
                cost = estimate(facts, target)
                return Candidate(target, (why,), left_out_by=rule, estimated_cost_nano_usd=cost)
        reasons, score, cost = self._score(facts, target)
        return Candidate(target, tuple(reasons), score, estimated_cost_nano_usd=cost)

    def _score(self, facts: Facts, target: Target) -> tuple[list[str], float, int | None]:
        """Return why `target` stands where it stands, its score, and what it may cost."""
        cost = estimate(facts, target)
        reasons, score = self._rank(facts, target)
        if not target.local and (kinds := self.redacts(facts).of(facts.inspection)):
            reasons.append(f"redacted: {', '.join(kinds)}")
        if cost is not None:
            score -= min(cost, 1_000_000_000) / 1_000_000_000  # cost decides among equals
        return reasons, score, cost

    def _rank(self, facts: Facts, target: Target) -> tuple[list[str], float]:
        """Return why `target` stands where it stands, and its score: hundreds for rules, ones for cost."""
        if self.order:
            place = self._place(target)
            return [f"place {place + 1} in the order of policy {self.name}"], 1000.0 - 10.0 * place
        if facts.category is Category.COMPLEX:
            if target.tier == self.complex_prefers:
                return [f"complex requests prefer tier {self.complex_prefers}"], 300.0
            return [f"degraded: tier {target.tier} answers a complex request if nothing better can"], 100.0
        if facts.category is Category.SAFETY_CRITICAL:
            return ["safety-critical requests need tier large"], 300.0 + 10.0 * target.local
        long = facts.prompt_tokens > self.local_context_limit and not facts.embeds
        if target.local:
            if long:
                limit = f"{facts.prompt_tokens} prompt tokens are over the local limit of {self.local_context_limit}"
                return [f"fallback: {limit}"], 100.0
            return ["JSON goes local first" if facts.json else "local first"], 200.0
        if long:
            return [
                f"{facts.prompt_tokens} prompt tokens are over the local limit of {self.local_context_limit}"
            ], 150.0
        return ["fallback when no local target answers"], 50.0

    def _place(self, target: Target) -> int:
        """Index of the first entry of `order` that names `target`, its tier or its kind; -1 if none does."""
        words = (target.name, target.called, target.tier, target.kind)
        return next((place for place, entry in enumerate(self.order) if entry in words), -1)

    # Objections, in the order of precedence. Each returns why `target` may not answer, or an empty string.

    def _rpc(self, facts: Facts, target: Target) -> str:
        if target.serves(embeds=facts.embeds):
            return ""
        return "it generates, and does not embed" if facts.embeds else "it embeds, and generates nothing"

    def _data_policy(self, facts: Facts, target: Target) -> str:
        if target.local:
            return ""
        bound = self.leaving(facts)
        objection = bound.objection(target.region, self.cloud_sensitivity_limit, target.retention_days)
        objection = objection or self.redacts(facts).objection(facts.inspection, facts.needs)
        return f"data policy: {objection}" if objection else ""

    def _model(self, facts: Facts, target: Target) -> str:
        if not facts.model or named(facts, target):
            return ""
        return f"model {facts.model!r} was asked for"

    def _wishes(self, facts: Facts, target: Target) -> str:
        if target.name in facts.denied or target.called in facts.denied:
            return "denied by the caller"
        if facts.allowed and facts.allowed.isdisjoint((target.name, target.called)):
            return "not among the targets the caller allows"
        return ""

    def _order(self, facts: Facts, target: Target) -> str:
        if not self.order or self._place(target) >= 0:
            return ""
        return f"not in the order of policy {self.name}: {', '.join(self.order)}"

    def _capability(self, facts: Facts, target: Target) -> str:
        missing = facts.needs - target.capabilities
        return f"cannot do {', '.join(sorted(missing))}" if missing else ""

    def _context(self, facts: Facts, target: Target) -> str:
        window = target.context_window
        # At least one token must be left for an answer; an uncounted prompt is left out by estimate only.
        room = window if window is None or not facts.embeds else window + 1
        if room is None or facts.prompt_tokens_at_most < room or facts.prompt_tokens < room:
            return ""
        return f"{facts.prompt_tokens} prompt tokens do not fit its context of {window}"

    def _quantization(self, facts: Facts, target: Target) -> str:
        floor = (self.min_bits_for or {}).get(facts.task)
        bits = target.quantization_bits
        if floor is None or bits is None or bits >= floor:
            return ""
        return f"task {facts.task} needs {floor} bits, it has {bits}"

    def _tier(self, facts: Facts, target: Target) -> str:
        if facts.category is Category.SAFETY_CRITICAL and target.tier != "large":
            return "safety-critical requests need tier large"
        return ""

    def _cost(self, facts: Facts, target: Target) -> str:
        caps = [cap for cap in (facts.max_cost_nano_usd, self.max_cost_nano_usd) if cap is not None]
        if not caps:
            return ""
        cost = estimate(facts, target)
        if cost is None:
            allowed = self.unpriced and facts.max_cost_nano_usd is None
            return "" if allowed else "its price is unknown and there is a cost cap"
        if cost > min(caps):
            return f"about {cost} nano-USD are over the cap of {min(caps)}"
        return ""

    def _address(self, facts: Facts, target: Target) -> str:
        return f"it is down: {target.unresolved}" if target.unresolved else ""

    def _budget(self, facts: Facts, target: Target) -> str:
        budget = self.budget
        if budget is None:
            return ""
        cost = estimate(facts, target)
        if cost is None and not budget.unpriced:
            return "its price is unknown and the tenant has a budget"
        if facts.purse is None or not budget.counts(target, cost):
            return ""
        return facts.purse.objection(cost)


@lru_cache(4096)
def _in_force(owner: DataPolicy, floor: Sensitivity, asked: DataPolicy) -> DataPolicy:
    resolved = replace(owner, sensitivity=Sensitivity.UNSPECIFIED).tightened(asked)
    resolved = resolved if resolved.sensitivity else resolved.tightened(owner)
    return resolved.tightened(DataPolicy(sensitivity=floor))


OBJECTIONS: Mapping[str, Callable[[Policy, Facts, Target], str]] = {
    "rpc": Policy._rpc,
    "data_policy": Policy._data_policy,
    "model": Policy._model,
    "wishes": Policy._wishes,
    "order": Policy._order,
    "capability": Policy._capability,
    "context": Policy._context,
    "quantization": Policy._quantization,
    "tier": Policy._tier,
    "cost": Policy._cost,
    "address": Policy._address,
    "budget": Policy._budget,
}
"""Rule -> why it objects, in the order of precedence."""

WHOLE = frozenset({StrategyName.CASCADE, StrategyName.DRAFT_VERIFY})
"""Strategies with nothing to show before the answer is whole."""
DRAFTING = frozenset({StrategyName.DRAFT_REFINE, StrategyName.DRAFT_VERIFY})

_ASSUMED_ANSWER_TOKENS = 256


def estimate(facts: Facts, target: Target) -> int | None:
    """Cost of an answer in 1e-9 USD before it is made, or None where the price is unknown."""
    if target.price is None:
        return None
    answer = 0 if facts.embeds else facts.max_tokens or _ASSUMED_ANSWER_TOKENS
    return target.price.cost(facts.prompt_tokens + facts.beside_tokens, answer)


def named(facts: Facts, target: Target) -> bool:
    """Whether the request names `target`; vectors may be asked for by the weights that several targets share."""
    names = (target.name, target.called, target.model, target.weights if facts.embeds else "")
    return bool(facts.model) and facts.model in names
