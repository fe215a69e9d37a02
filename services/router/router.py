"""The router: facts, plan, dispatch. What its rpcs do, without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from zlib import crc32

from spillway import v1
from spillway.deadline import Clock
from spillway.egress import DataPolicy, Residency
from spillway.errors import BreakerOpen, SpillwayError
from spillway.generation import check, check_routing, fold
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing

from .admission import Ticket
from .breakers import Breakers
from .cache import Cache
from .chain import account, wishes
from .condenser import Condenser
from .departures import Departures
from .facts import Delivery, StrategyName
from .fitter import Fitter
from .fleet import Fleet
from .gate import Gate
from .idempotency import Idempotency
from .inspection import Inspection
from .inspector import Inspector
from .journal import Announce, Attempt, Journal, Keep
from .load_watch import LoadWatches
from .loads import Loads
from .measures import Measures
from .observation import kind_of_work
from .plan import Plan
from .policy import worth_counting
from .reading import read_facts, tell_data_policy
from .refusal import refusal
from .retry_budget import RetryBudget
from .rulebook import Rulebook
from .spend import Spend, charge
from .strategies import Strategy
from .work import Work

COUNT_TIMEOUT_S = 2.0
EXPLAIN_TIMEOUT_S = 2.0
MAX_EXPLAINED = 4


class Router:
    """Decides which target answers a request, and sees that it does."""

    def __init__(
        self,
        *,
        book: Rulebook,
        fleet: Fleet,
        strategies: Mapping[StrategyName, Strategy],
        keep: Keep,
        announce: Announce | None,
        tracing: Tracing,
        clock: Clock,
        breakers: Breakers,
        budget: RetryBudget,
        loads: Loads,
        watches: LoadWatches,
        gate: Gate,
        idempotency: Idempotency,
        measures: Measures,
        inspector: Inspector,
        spend: Spend,
        cache: Cache | None = None,
    ) -> None:
        self._measures = measures
        self._inspector = inspector
        self.breakers = breakers
        self.spend = spend
        self.cache = cache
        self.loads = loads
        self.gate = gate
        self._watches = watches
        self._idempotency = idempotency
        self._fleet = fleet
        self._strategies = strategies
        self._keep = keep
        self._announce = announce
        self._tracing = tracing
        self._clock = clock
        self._budget = budget
        self._departures = Departures()
        self.adopt(book)

    async def generate(
        self, request: v1.GenerateRequest, call: Call, alive: Callable[[], None] = lambda: None
    ) -> v1.GenerateResponse:
        """Return the answer of the first target of the plan that gives an acceptable one.

        A request_id of the caller's own gets the same answer again; a router's is the business of the first router.
        `alive` is told of every first token.
        """
        with self._measures.request(request.policy.task):
            if request.spec.request_id and not request.HasField("stamp"):
                return await self._idempotency.once(request, call, self._generate)
            return await self._generate(request, call, alive)

    async def _generate(
        self, request: v1.GenerateRequest, call: Call, alive: Callable[[], None] = lambda: None
    ) -> v1.GenerateResponse:
        work = await self._work(request, call, alive)
        if self.cache is not None:
            terms = self.cache.terms(work, stamped=work.stamped)
            if not terms.off:
                whole = replace(work, plan=replace(work.plan, delivery=Delivery.COMMITTED))
                return await fold(self.cache.stream(whole, terms, self._make))
        while True:
            try:
                ticket, work = await self._admit(work)
                try:
                    with self._accounted(work):
                        return await self._strategy(work).generate(work)
                finally:
                    self.gate.leave(ticket)
            except BreakerOpen as error:
                work = await self._later(work, error)

    async def stream(self, request: v1.StreamGenerateRequest, call: Call) -> AsyncGenerator[v1.GenerationEvent]:
        """Decide, and return the events of an answer: nothing is dispatched before the first is asked for."""
        with ExitStack() as block:
            block.enter_context(self._measures.request(request.policy.task))
            work = await self._work(request, call)
            if request.spec.request_id and not work.stamped:
                block.enter_context(self._idempotency.holding(request.spec.request_id, call))
            if self.cache is not None:
                terms = self.cache.terms(work, stamped=work.stamped)
                if not terms.off:
                    return _within(block.pop_all(), self.cache.stream(work, terms, self._make))
            return self._make(work, block.pop_all())

    async def explain(
        self, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, call: Call, stamped: v1.DataPolicy | None = None
    ) -> Plan:
        """Return the plan that would be made now. A plan that took no target is an answer here, not an error."""
        check(spec)
        check_routing(policy)
        return await self._plan(spec, policy, stamped or v1.DataPolicy(), call)

    async def explain_onward(
        self, plan: Plan, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, call: Call
    ) -> dict[str, v1.Plan]:
        """Return what the first few routers that `plan` takes would do, by target, as far as they say so in time."""
        routers = [candidate.target for candidate in plan.taken if candidate.target.router][:MAX_EXPLAINED]
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

    async def count_tokens(self, spec: v1.GenerationSpec, call: Call) -> v1.CountTokensResponse:
        """Count the prompt's tokens at the target that would answer.

        Never at a router: no stamp travels with a count, so it might ask on where the content may not go.
        """
        plan = await self.explain(spec, v1.RoutingPolicy(), call)
        if not plan.taken:
            raise refusal(plan)
        target = next((candidate.target for candidate in plan.taken if not candidate.target.router), None)
        if target is None:
            return v1.CountTokensResponse(tokens=plan.facts.prompt_tokens)
        return await self._fleet.client(target).count_tokens(target, spec, call)

    def adopt(self, book: Rulebook) -> None:
        """Decide by `book` from now on; what was decided before goes on as it was."""
        self.book = book
        forgotten = self._departures.past((target.name for target in book.targets), self._clock())
        self.breakers.forget(forgotten)
        self._measures.forget(forgotten)
        self._fleet.keep(book.targets)
        self.loads.adopt(book.targets)
        self._watches.adopt(book.targets)
        if self.cache is not None:
            self.cache.adopt(book.targets)

    async def _make(self, work: Work, block: ExitStack | None = None) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield the events of an answer that is made now, inside `block`, which ends with them."""
        with block or nullcontext():
            while True:
                try:
                    ticket, work = await self._admit(work)
                    try:
                        with self._accounted(work):
                            async with aclosing(self._strategy(work).stream(work)) as events:
                                async for event in events:
                                    yield event
                            return
                    finally:
                        self.gate.leave(ticket)
                except BreakerOpen as error:
                    work = await self._later(work, error)

    async def _later(self, work: Work, error: BreakerOpen) -> Work:
        """Plan `work` anew, of which nothing was tried since others took the probes; raise `error` where it is over."""
        if work.journal.attempts or work.plan.when_all_open != "wait":
            raise error
        asked = tell_data_policy(work.plan.facts.data_policy)
        again = await self._patient_plan(work.spec, work.policy, asked, work.call)
        return replace(work, plan=replace(again, delivery=work.plan.delivery))

    def _strategy(self, work: Work) -> Strategy:
        strategy = self._strategies[work.plan.strategy]
        return strategy if work.plan.fit is None else Condenser(self._strategies[StrategyName.DIRECT], strategy)

    async def _admit(self, work: Work) -> tuple[Ticket, Work]:
        """Wait until `work` may run. After a wait it is planned anew: breakers, loads and the policy have moved on."""
        call, plan = work.call, work.plan
        background = plan.facts.priority == "background"
        ticket = await self.gate.enter(call.caller.tenant, background=background, deadline=call.deadline)
        if not ticket.waited_s:
            return ticket, work
        try:
            call.span.set_attribute(names.QUEUE_MS, round(ticket.waited_s * 1000))
            stamped = tell_data_policy(plan.facts.data_policy)
            again = await self._plan(work.spec, work.policy, stamped, call, plan.facts.inspection)
            if not again.taken:
                raise refusal(again)
            return ticket, replace(work, plan=replace(again, delivery=plan.delivery))
        except BaseException:
            self.gate.leave(ticket)
            raise

    @contextmanager
    def _accounted(self, work: Work) -> Iterator[None]:
        """Measure what is done about `work` in the block; another router is told it with an error too."""
        try:
            yield
        except SpillwayError as error:
            if work.stamped:
                error.metadata = {**account(attempt.record for attempt in work.journal.attempts), **error.metadata}
            raise
        finally:
            self._measures.work(work)

    async def _work(
        self,
        request: v1.GenerateRequest | v1.StreamGenerateRequest,
        call: Call,
        alive: Callable[[], None] = lambda: None,
    ) -> Work:
        check(request.spec)
        check_routing(request.policy)
        call = call.onward()
        plan = await self._patient_plan(request.spec, request.policy, request.stamp.data_policy, call)
        self._budget.request(self._clock())
        if (fit := plan.fit) is not None:
            call.span.set_attribute(names.CONTEXT, fit.policy.name.lower())
            call.span.set_attribute(names.CONTEXT_BEFORE, fit.tokens_before)
            call.span.set_attribute(names.CONTEXT_AFTER, fit.tokens_after)
        stays = plan.data_policy.residency is Residency.LOCAL_ONLY
        journal = Journal(
            call,
            self._clock,
            self._settled,
            announce=self._announce,
            max_attempts=plan.limits.max_attempts,
            stays=stays,
            alive=alive,
        )
        return Work(request.spec, request.policy, plan, call, journal, request.HasField("stamp"))

    def _settled(self, attempt: Attempt, call: Call) -> None:
        self.loads.give_back(attempt.target.name)
        if attempt.record.HasField("first_token_ms"):
            self.gate.admission.first_token(attempt.record.first_token_ms / 1000, self._clock())
        if attempt.hold is not None:
            self.spend.settle(attempt.hold, charge(attempt.record, attempt.hold.estimate))
        self.breakers.settle(attempt)
        self._keep(attempt, call)

    async def _patient_plan(
        self, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, stamped: v1.DataPolicy, call: Call
    ) -> Plan:
        """Return a plan that took a target; where its policy says so, wait for a breaker as long as time is left.

        Raises the plan's refusal.
        """
        while True:
            plan = await self._plan(spec, policy, stamped, call)
            if plan.taken:
                return plan
            floors = [out.target.first_token_floor_s for out in plan.left_out if out.left_out_by == "breaker"]
            left_s = call.deadline.left() - min(floors, default=0.0)
            if plan.when_all_open != "wait" or plan.opens_in_s is None or left_s <= 0:
                raise refusal(plan)
            await self.breakers.change(min(plan.opens_in_s, left_s))

    async def _plan(
        self,
        spec: v1.GenerationSpec,
        policy: v1.RoutingPolicy,
        stamped: v1.DataPolicy,
        call: Call,
        inspection: Inspection | None = None,
    ) -> Plan:
        """Decide. `inspection` is what came of it where the request was planned before."""
        book = self.book
        span = self._tracing.start(names.DECIDE, call.span)
        try:
            # What caller and routers before this one say can only tighten what the owner's policy says.
            asked = DataPolicy.read(policy.data_policy).tightened(DataPolicy.read(stamped))
            said = replace(read_facts(spec, policy, asked, call.caller.tenant), inspection=inspection)
            facts, rules = book.read(said)
            standings = self.breakers.snapshot(kind_of_work(facts.task, spec.constraint))
            draw = _number(call.request_id)
            start = _number(facts.session) if facts.session else draw
            targets = book.cohorts.shortlist(rules.names(facts), standings, start)
            if worth_counting(facts, targets, rules):
                counted = await self._count_locally(spec, book, call.under(span))
                if counted is not None:
                    said = said.counted(counted)
                    facts, rules = book.read(said)
            if rules.inspects(facts):  # a rule that wants it may be chosen by the count
                inspection = await self._inspector.inspect(spec, call.under(span))
                self._measures.inspection(inspection)
                facts, rules = book.read(replace(said, inspection=inspection))
                targets = book.cohorts.shortlist(rules.names(facts), standings, start)
            plan = rules.decide(facts, targets, standings, draw, self.loads.snapshot())
            if plan.budget is not None and plan.spends:
                facts = replace(facts, purse=await self.spend.look(facts.tenant, plan.budget))
                plan = rules.decide(facts, targets, standings, draw, self.loads.snapshot())
                self.spend.refused += any(out.left_out_by == "budget" for out in plan.left_out)
            if not plan.taken and plan.opens_in_s is None:
                counting = partial(self._count_locally, book=book, call=call.under(span))
                plan = await Fitter(rules, targets, standings, draw, counting).fitted(spec, plan)
            span.set_attribute(names.ROUTE_REASON, plan.reason)
            return plan
        finally:
            span.end()

    async def _count_locally(self, spec: v1.GenerationSpec, book: Rulebook, call: Call) -> int | None:
        """Ask a local target for an exact count; None if none tells in time."""
        call = call.until(call.deadline.within(COUNT_TIMEOUT_S))
        for target in book.targets:
            if target.local and not target.router and not target.unresolved:
                try:
                    return (await self._fleet.client(target).count_tokens(target, spec, call)).tokens
                except SpillwayError:
                    continue
        return None


async def _within(block: ExitStack, events: AsyncGenerator[v1.GenerationEvent]) -> AsyncGenerator[v1.GenerationEvent]:
    """Yield `events` inside `block`, which ends with them."""
    with block:
        async with aclosing(events):
            async for event in events:
                yield event


def _number(name: str) -> float:
    """A number in [0, 1) of its own for every name."""
    return crc32(name.encode()) / 2**32
