"""The router: facts, plan, dispatch. What its rpcs do, without gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from spillway import embedding, v1
from spillway.deadline import Clock
from spillway.egress import Residency
from spillway.errors import BreakerOpen, SpillwayError
from spillway.generation import check, check_routing, fold
from spillway.rpc.call import Call
from spillway.rpc.lane import Lane
from spillway.telemetry import names

from .admission import Ticket
from .breakers import Breakers
from .cache import Cache
from .chain import account
from .condenser import Condenser
from .departures import Departures
from .embedder import Embedder
from .facts import Delivery, StrategyName
from .fleet import Fleet
from .gate import Gate
from .idempotency import Idempotency
from .journal import Announce, Attempt, Journal, Keep
from .loads import Loads
from .measures import Measures
from .plan import Plan
from .planner import Planner
from .retry_budget import RetryBudget
from .rulebook import Rulebook
from .spend import Spend, charge
from .strategies import Strategy
from .watch import Watches
from .work import Embedding, Planned, Work

Made = TypeVar("Made", bound=Planned)

FREE: Final = nullcontext()
"""A block that nothing ends with."""


class Router:
    """Decides which target answers a request, and sees that it does."""

    def __init__(
        self,
        *,
        planner: Planner,
        fleet: Fleet,
        strategies: Mapping[StrategyName, Strategy],
        embedder: Embedder,
        keep: Keep,
        announce: Announce | None,
        clock: Clock,
        breakers: Breakers,
        budget: RetryBudget,
        loads: Loads,
        watches: Sequence[Watches[Any]],
        gate: Gate,
        idempotency: Idempotency,
        measures: Measures,
        spend: Spend,
        cache: Cache | None = None,
    ) -> None:
        self._measures = measures
        self.breakers = breakers
        self.spend = spend
        self.cache = cache
        self.loads = loads
        self.gate = gate
        self._watches = watches
        self._idempotency = idempotency
        self._fleet = fleet
        self._strategies = strategies
        self._embedder = embedder
        self._keep = keep
        self._announce = announce
        self._clock = clock
        self._budget = budget
        self._departures = Departures()
        self.planner = planner
        self.adopt(planner.book)

    @property
    def book(self) -> Rulebook:
        """The policies in force."""
        return self.planner.book

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
                whole = replace(work, plan=replace(work.plan, delivery=Delivery.COMMITTED, records=False))
                return await fold(self.cache.stream(whole, terms, self._make))
        while True:
            try:
                ticket, work = await self._admit(work)
                with _Running(self.gate, self._measures, ticket, work):
                    return await self._strategy(work).generate(work)
            except BreakerOpen as error:
                work = await self._later(work, error)

    async def stream(
        self, request: v1.StreamGenerateRequest, call: Call, lane: Lane | None = None
    ) -> AsyncGenerator[v1.GenerationEvent]:
        """Decide, and return the events of an answer: nothing is dispatched before the first is asked for.

        Between two events deltas may go by `lane`.
        """
        measured = self._measures.request(request.policy.task)
        try:
            work = await self._work(request, call, lane=lane)
            if self.cache is not None:
                terms = self.cache.terms(work, stamped=work.stamped)
                if not terms.off:
                    kept = self.cache.stream(replace(work, lane=None), terms, self._make)
                    return _within(measured, self._holding(work), kept)
        except BaseException as error:
            measured.__exit__(type(error), error, None)
            raise
        return self._make(work, measured, self._holding(work))

    async def embed(
        self, request: v1.EmbedRequest, call: Call, alive: Callable[[], None] = lambda: None
    ) -> v1.EmbedResponse:
        """Return a vector for every input, all of one target. `alive` is told of every target's first sign of life."""
        with self._measures.request(request.policy.task):
            embedding.check(request.spec)
            plan, journal = await self._planned(request, call, alive)
            work = Embedding(request.spec, request.policy, plan, journal.call, journal, request.HasField("stamp"))
            while True:
                try:
                    ticket, work = await self._admit(work)
                    with _Running(self.gate, self._measures, ticket, work):
                        return await self._embedder.embed(work)
                except BreakerOpen as error:
                    work = await self._later(work, error)

    def adopt(self, book: Rulebook) -> None:
        """Decide by `book` from now on; what was decided before goes on as it was."""
        self.planner.book = book
        forgotten = self._departures.past((target.name for target in book.targets), self._clock())
        self.breakers.forget(forgotten)
        self._measures.forget(forgotten)
        self._fleet.keep(book.targets)
        self.loads.adopt(book.targets)
        for watches in self._watches:
            watches.adopt(book.targets)
        if self.cache is not None:
            self.cache.adopt(book.targets)

    def _holding(self, work: Work) -> AbstractContextManager[None]:
        """Hold the id that its caller gave `work`, for the block."""
        if not work.spec.request_id or work.stamped:
            return FREE
        return self._idempotency.holding(work.spec.request_id, work.call)

    async def _make(
        self,
        work: Work,
        measured: AbstractContextManager[None] = FREE,
        holding: AbstractContextManager[None] = FREE,
    ) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield the events of an answer that is made now, inside blocks that end with them."""
        with measured, holding:
            while True:
                try:
                    ticket, work = await self._admit(work)
                    with _Running(self.gate, self._measures, ticket, work):
                        async with aclosing(self._strategy(work).stream(work)) as events:
                            async for event in events:
                                yield event
                        return
                except BreakerOpen as error:
                    work = await self._later(work, error)

    async def _later(self, work: Made, error: BreakerOpen) -> Made:
        """Plan `work` anew, of which nothing was tried since others took the probes; raise `error` where it is over."""
        if work.journal.attempts or work.plan.when_all_open != "wait":
            raise error
        return await self.planner.again(work, patient=True)

    def _strategy(self, work: Work) -> Strategy:
        strategy = self._strategies[work.plan.strategy]
        return strategy if work.plan.fit is None else Condenser(self._strategies[StrategyName.DIRECT], strategy)

    async def _admit(self, work: Made) -> tuple[Ticket, Made]:
        """Wait until `work` may run. After a wait it is planned anew: breakers, loads and the policy have moved on."""
        call, plan = work.call, work.plan
        background = plan.facts.priority == "background"
        ticket = await self.gate.enter(call.caller.tenant, background=background, deadline=call.deadline)
        if not ticket.waited_s:
            return ticket, work
        try:
            call.span.set_attribute(names.QUEUE_MS, round(ticket.waited_s * 1000))
            return ticket, await self.planner.again(work)
        except BaseException:
            self.gate.leave(ticket)
            raise

    async def _work(
        self,
        request: v1.GenerateRequest | v1.StreamGenerateRequest,
        call: Call,
        alive: Callable[[], None] = lambda: None,
        lane: Lane | None = None,
    ) -> Work:
        check(request.spec)
        plan, journal = await self._planned(request, call, alive)
        stamped = request.HasField("stamp")
        return Work(request.spec, request.policy, plan, journal.call, journal, stamped, lane=lane)

    async def _planned(
        self,
        request: v1.GenerateRequest | v1.StreamGenerateRequest | v1.EmbedRequest,
        call: Call,
        alive: Callable[[], None],
    ) -> tuple[Plan, Journal]:
        check_routing(request.policy, request.spec)
        call = call.onward()
        plan = await self.planner.patient(request.spec, request.policy, request.stamp.data_policy, call)
        self._budget.request(self._clock())
        if (fit := plan.fit) is not None:
            call.span.set_attribute(names.CONTEXT, fit.policy.name.lower())
            call.span.set_attribute(names.CONTEXT_BEFORE, fit.tokens_before)
            call.span.set_attribute(names.CONTEXT_AFTER, fit.tokens_after)
        stays = plan.data_policy.residency is Residency.LOCAL_ONLY and all(
            plan.data_policy_at(candidate.target).residency is Residency.LOCAL_ONLY for candidate in plan.taken
        )
        journal = Journal(
            call,
            self._clock,
            partial(self._settled, embeds=plan.facts.embeds),
            announce=self._announce,
            max_attempts=plan.limits.max_attempts,
            stays=stays,
            alive=alive,
        )
        return plan, journal

    def _settled(self, attempt: Attempt, call: Call, *, embeds: bool) -> None:
        if not attempt.left:
            self.loads.give_back(attempt.target.name)
        if attempt.record.HasField("first_token_ms") and not embeds:  # vectors have no first token
            self.gate.admission.first_token(attempt.record.first_token_ms / 1000, self._clock())
        if attempt.hold is not None:
            self.spend.settle(attempt.hold, charge(attempt.record, attempt.hold.estimate))
        self.breakers.settle(attempt)
        self._keep(attempt, call)


class _Running(AbstractContextManager[None]):
    """The block in which something is done about `work`: it is measured, and its place given back.

    Another router is told what was done with an error too.
    """

    __slots__ = ("_gate", "_measures", "_ticket", "_work")

    def __init__(self, gate: Gate, measures: Measures, ticket: Ticket, work: Planned) -> None:
        self._gate, self._measures, self._ticket, self._work = gate, measures, ticket, work

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SpillwayError) and self._work.stamped:
            made = (attempt.record for attempt in self._work.journal.attempts)
            error.metadata = {**account(made), **error.metadata}
        self._gate.leave(self._ticket)
        self._measures.work(self._work)


async def _within(
    measured: AbstractContextManager[None],
    holding: AbstractContextManager[None],
    events: AsyncGenerator[v1.GenerationEvent],
) -> AsyncGenerator[v1.GenerationEvent]:
    """Yield `events` inside blocks that end with them."""
    with measured, holding:
        async with aclosing(events):
            async for event in events:
                yield event
