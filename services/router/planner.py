"""The planner: what a request is, which policy it gets, and the plan for it. Asks what has to be asked first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar
from zlib import crc32

from spillway import v1
from spillway.deadline import Clock
from spillway.egress import DataPolicy
from spillway.embedding import Spec
from spillway.errors import SpillwayError
from spillway.generation import check, check_routing
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing

from .breaker import SOUND, Standing, State
from .breakers import Breakers
from .chain import wishes
from .counting import worth_counting
from .facts import Facts, StrategyName
from .fitter import Fitter
from .fleet import Fleet
from .inspection import Inspection
from .inspector import Inspector
from .loads import Loads
from .measures import Measures
from .observation import kind_of_spec
from .opinion import with_judge
from .plan import Plan
from .policy import Policy
from .quotas import Quota, Quotas
from .reading import countable, read_facts, recounted, tell_data_policy
from .refusal import refusal
from .rulebook import Rulebook
from .spend import Spend
from .target import Target
from .vectors import require_one_model
from .work import Planned

Made = TypeVar("Made", bound=Planned)

COUNT_TIMEOUT_S = 2.0
EXPLAIN_TIMEOUT_S = 2.0
MAX_EXPLAINED = 4


class Planner:
    """Decides by `book`, over what it is told of breakers, loads, quotas, budgets and prompts."""

    def __init__(
        self,
        *,
        book: Rulebook,
        fleet: Fleet,
        breakers: Breakers,
        loads: Loads,
        quotas: Quotas,
        clock: Clock,
        inspector: Inspector,
        spend: Spend,
        measures: Measures,
        tracing: Tracing,
        max_waiting: int,
        scores: bool,
    ) -> None:
        self.book = book
        self._fleet = fleet
        self._breakers = breakers
        self._loads = loads
        self.quotas = quotas
        self._clock = clock
        self._inspector = inspector
        self._spend = spend
        self._measures = measures
        self._tracing = tracing
        self._max_waiting = max_waiting
        self._scores = scores

    async def plan(
        self,
        spec: Spec,
        policy: v1.RoutingPolicy,
        stamped: v1.DataPolicy,
        call: Call,
        inspection: Inspection | None = None,
    ) -> Plan:
        """Return the plan for a request; it may have taken no target.

        Raises RequestInvalid where it is left open which model embeds.

        `inspection` is what came of it where the request was planned before.
        """
        book = self.book
        span = self._tracing.start(names.DECIDE, call.span)
        try:
            # What caller and routers before this one say can only tighten what the owner's policy says.
            asked = DataPolicy.read(policy.data_policy).tightened(DataPolicy.read(stamped))
            tenant = call.caller.tenant
            said = read_facts(spec, policy, book.bound(asked, tenant), tenant)
            if inspection is not None:
                said = replace(said, inspection=inspection)
            facts, rules = book.read(said)
            require_one_model(facts, rules, book.declared)
            standings = self._breakers.snapshot(kind_of_spec(facts.task, spec, rules.judges(facts)))
            draw = _number(call.request_id)
            start = _number(facts.session) if facts.session else draw
            targets = book.cohorts.shortlist(rules.names(facts), standings, start)
            if worth_counting(facts, targets, rules):
                model = facts.model if facts.embeds else None
                counted = await self._count_locally(countable(spec), book, standings, call.under(span), model)
                if counted is not None:
                    said = said.counted(recounted(spec, counted))
                    facts, rules = book.read(said)
            if rules.inspects(facts):  # a rule that wants it may be chosen by the count
                inspection = await self._inspector.inspect(spec, call.under(span))
                self._measures.inspection(inspection)
                inspection = replace(inspection, raises=rules.raises(facts))
                facts, rules = book.read(replace(said, inspection=inspection))
                targets = book.cohorts.shortlist(rules.names(facts), standings, start)
            plan = self._decided(rules, facts, targets, standings, draw)
            if plan.budget is not None and plan.spends:
                facts = replace(facts, purse=await self._spend.look(facts.tenant, plan.budget))
                plan = self._decided(rules, facts, targets, standings, draw)
                self._spend.refused += any(out.left_out_by == "budget" for out in plan.left_out)
            if not plan.taken and plan.opens_in_s is None and isinstance(spec, v1.GenerationSpec):
                counting = partial(self._count_locally, book=book, standings=standings, call=call.under(span))
                fitter = Fitter(rules, targets, standings, draw, counting, *self._quoted())
                plan = await fitter.fitted(spec, plan)
            if plan.strategy is StrategyName.CASCADE and plan.taken:
                plan = self._vouched(rules, plan, targets, standings, draw)
            span.set_attribute(names.ROUTE_REASON, plan.reason)
            return plan
        finally:
            span.end()

    async def patient(
        self,
        spec: Spec,
        policy: v1.RoutingPolicy,
        stamped: v1.DataPolicy,
        call: Call,
        inspection: Inspection | None = None,
    ) -> Plan:
        """Return a plan that took a target; where its policy says so, wait for a breaker as long as time is left.

        Raises the plan's refusal, also where `max_waiting` others wait.
        """
        full = self._breakers.waiting >= self._max_waiting
        while True:
            plan = await self.plan(spec, policy, stamped, call, inspection)
            if plan.taken:
                return plan
            floors = [out.target.first_token_floor_s for out in plan.left_out if out.left_out_by == "breaker"]
            left_s = call.deadline.left() - min(floors, default=0.0)
            if plan.when_all_open != "wait" or plan.opens_in_s is None or left_s <= 0 or full:
                raise refusal(plan)
            inspection = plan.facts.inspection
            await self._breakers.change(min(plan.opens_in_s, left_s))

    async def again(self, work: Made, *, patient: bool = False) -> Made:
        """Return `work` as it is planned now, of which nothing was tried. Raises the plan's refusal."""
        before = work.plan
        facts = before.facts
        stated = tell_data_policy(facts.declared or facts.data_policy)  # what was found raises it again
        plan = await (self.patient if patient else self.plan)(
            work.spec, work.policy, stated, work.call, facts.inspection
        )
        if not plan.taken:
            raise refusal(plan)
        return replace(work, plan=replace(plan, delivery=before.delivery, records=plan.records and before.records))

    async def explain(
        self, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, call: Call, stamped: v1.DataPolicy | None = None
    ) -> Plan:
        """Return the plan that would be made now. A plan that took no target is an answer here, not an error."""
        check(spec)
        check_routing(policy, spec)
        return await self.plan(spec, policy, stamped or v1.DataPolicy(), call)

    async def explain_onward(
        self, plan: Plan, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, call: Call
    ) -> dict[str, v1.Plan]:
        """Return what the first few routers that `plan` takes would do, by target, as far as they say so in time."""
        # Nothing is redacted only to be explained.
        asked_of = (candidate.target for candidate in plan.taken if not plan.redacts(candidate.target))
        routers = [target for target in asked_of if target.router][:MAX_EXPLAINED]
        onward = call.onward().until(call.deadline.within(EXPLAIN_TIMEOUT_S))
        stamp = v1.PolicyStamp(data_policy=tell_data_policy(plan.data_policy))
        asked = [
            v1.ExplainRouteRequest(spec=spec, policy=wishes(policy, plan, target), stamp=stamp) for target in routers
        ]
        told = await asyncio.gather(
            *(
                self._fleet.client(target).explain(target, request, onward)
                for target, request in zip(routers, asked, strict=True)
            ),
            return_exceptions=True,
        )
        found = {}
        for target, plan_there in zip(routers, told, strict=True):
            if isinstance(plan_there, v1.Plan):
                found[target.name] = plan_there
            elif not isinstance(plan_there, SpillwayError):
                raise plan_there
        return found

    async def count_tokens(
        self, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, call: Call
    ) -> v1.CountTokensResponse:
        """Count the prompt's tokens at the target that would answer.

        Never at a router: no stamp travels with a count, so it might ask on where the content may not go. Nor where
        only placeholders may go: nothing is redacted only to be counted.
        """
        plan = await self.explain(spec, policy, call)
        if not plan.taken:
            raise refusal(plan)
        asked_of = (candidate.target for candidate in plan.taken if not plan.redacts(candidate.target))
        target = next((target for target in asked_of if not target.router), None)
        if target is None:
            return v1.CountTokensResponse(tokens=plan.facts.prompt_tokens)
        return await self._fleet.client(target).count_tokens(target, spec, call)

    def _decided(
        self, rules: Policy, facts: Facts, targets: Sequence[Target], standings: Mapping[str, Standing], draw: float
    ) -> Plan:
        return rules.decide(facts, targets, standings, draw, self._loads.snapshot(), *self._quoted())

    def _vouched(
        self, rules: Policy, plan: Plan, targets: Sequence[Target], standings: Mapping[str, Standing], draw: float
    ) -> Plan:
        """Return `plan` with what is done to learn how right answers are, which takes a validator."""
        limits = plan.limits
        kept = f"{plan.reason}; kept from confidence {limits.confidence_threshold:.2f} on"
        if not self._scores:
            return replace(plan, limits=replace(limits, samples=1), reason=f"{kept} by own probabilities: no validator")
        plan = replace(plan, reason=f"{kept}, by {limits.samples} samples" if limits.samples > 1 else kept)
        if not rules.judge:
            return plan
        # A judge that may be down is not waited for: its sign can be missed.
        alone = replace(rules, order=(), when_all_open="fail")
        judges = [target for target in targets if rules.judge in (target.name, target.called)]
        return with_judge(plan, rules.judge, lambda facts: self._decided(alone, facts, judges, standings, draw))

    def _quoted(self) -> tuple[Mapping[str, Quota], float]:
        """Return what is known of quotas, and now."""
        return self.quotas.snapshot(), self._clock()

    async def _count_locally(
        self,
        spec: v1.GenerationSpec,
        book: Rulebook,
        standings: Mapping[str, Standing],
        call: Call,
        embedder: str | None = None,
    ) -> int | None:
        """Ask a local target that is well for an exact count; None if none tells in time.

        `embedder`: of those that embed, one that is called so; empty: any.
        """
        call = call.until(call.deadline.within(COUNT_TIMEOUT_S))
        for target in book.targets:
            well = standings.get(target.name, SOUND).state is State.CLOSED
            meant = not embedder or embedder in (target.name, target.called, target.model, target.weights)
            if not meant or not target.serves(embeds=embedder is not None):
                continue
            if target.local and well and not target.router and not target.unresolved:
                try:
                    return (await self._fleet.client(target).count_tokens(target, spec, call)).tokens
                except SpillwayError:
                    continue
        return None


def _number(name: str) -> float:
    """A number in [0, 1) of its own for every name."""
    return crc32(name.encode()) / 2**32
