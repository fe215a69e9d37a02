"""What a router measures of itself. Names and meanings: docs/metrics.md.

Everything about a request follows from its finished journal, in one place; nothing is done per token. Attributes hold
names of the policy and words of the contract, never what a caller wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import SpillwayError
from spillway.record import record
from spillway.telemetry import names
from spillway.telemetry.histogram import MAX_SERIES, Attributes, Histogram
from spillway.telemetry.metrics import Metrics

from .breaker import Closed, Event, HalfOpened, Held, Opened
from .cache import Cache
from .inspection import Inspection
from .journal import OUTCOMES, Attempt
from .ledger import Ledger
from .spend import Spend
from .work import Planned

_STATES: Mapping[type[Event], str] = {Opened: "open", HalfOpened: "half_open", Closed: "closed", Held: "held"}
_FELL_SHORT = {
    v1.ATTEMPT_OUTCOME_FAILED: "",  # its reason says more
    v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR: "refused_by_validator",
    v1.ATTEMPT_OUTCOME_NOT_CONFIDENT: "not_confident",
}
"""Outcomes after which another target is tried, and how they are called."""
_TASKS = {number: name.removeprefix("TASK_").lower() for name, number in v1.Task.items()}
EMBEDDINGS = "embeddings"
"""gen_ai.operation.name of what makes vectors."""
LOCAL_PROVIDER = "spillway"
"""gen_ai.provider.name of what answers on the site."""


class Count:
    """A counter that is read when metrics are collected: adding costs a dictionary's entry, not the SDK's 30 us."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str) -> None:
        self._counts: dict[Attributes, int] = {}
        meter.create_observable_counter(name, [self._observed], unit, description)

    def add(self, amount: int, attributes: Mapping[str, str] | Attributes) -> None:
        """Count `amount` more under `attributes`."""
        key = attributes if isinstance(attributes, tuple) else tuple(attributes.items())
        self._counts[key] = self._counts.get(key, 0) + amount

    def forget(self, gone: frozenset[tuple[str, str]]) -> None:
        """Drop the series that have one of these attributes."""
        for key in [key for key in self._counts if not gone.isdisjoint(key)]:
            del self._counts[key]

    def _observed(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, dict(key)) for key, count in list(self._counts.items())]  # from another thread

    def __repr__(self) -> str:
        return f"<Count {sum(self._counts.values())} in {len(self._counts)} series>"


class Measures:
    """The instruments of one router."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._local = self._counter(names.LOCAL_DISPATCHES, "{attempt}", "attempts whose content stayed on the site")
        self._escalations = self._counter(
            names.CLOUD_ESCALATIONS, "{request}", "requests that left the site after a local attempt fell short"
        )
        self._refused = self._counter(
            names.FALLBACK_VALIDATION_FAILURES, "{answer}", "answers that the validator refused"
        )
        self._cost = metrics.histogram(names.COST_PER_TASK, "{USD}", "cost of all attempts of one request")
        self._attempts = self._counter(names.ATTEMPTS, "{attempt}", "calls to targets")
        self._duration = metrics.histogram(names.REQUEST_DURATION, "s", "from the request to its end")
        self._first = metrics.histogram(names.FIRST_TOKEN, "s", "from the request to the answer's first token")
        self._tokens = self._counter(names.TOKENS, "{token}", "tokens of all attempts")
        self._breakers = self._counter(names.BREAKER_CHANGES, "{change}", "changes of breakers")
        self._scored = self._counter(names.CONFIDENCE_SCORES, "{answer}", "answers whose confidence was asked")
        self._inspections = self._counter(names.INSPECTIONS, "{prompt}", "prompts that were to be inspected")
        self._call = metrics.histogram(names.GEN_AI_DURATION, "s", "one call to a model")
        self._call_first = metrics.histogram(names.GEN_AI_FIRST_CHUNK, "s", "one call's first token")
        self._usage = metrics.histogram(names.GEN_AI_TOKENS, "{token}", "tokens of one call to a model")

    def request(self, task: v1.Task.ValueType) -> AbstractContextManager[None]:
        """Measure a request for the block."""
        if not self._metrics.recording:
            return nullcontext()
        return _Request(self._duration, self._clock, _TASKS.get(task, "unspecified"))

    def work(self, work: Planned) -> None:
        """Measure what was done about a request; all its attempts are settled."""
        journal = work.journal
        if not self._metrics.recording or not journal.attempts:
            return
        task = {names.TASK: work.plan.facts.task or "unspecified"}
        short, escalated = "", False
        facts = work.plan.facts
        operation = EMBEDDINGS if facts.embeds else "chat" if facts.chat else "text_completion"
        for attempt in journal.attempts:
            self._attempt(attempt, task, operation)
            record = attempt.record
            if attempt.confidence is not None:
                self._scored.add(1, {**task, names.SCORED_BY: attempt.confidence.by})
            if attempt.aside:
                continue
            if not record.left_site and record.outcome in _FELL_SHORT:
                short = _FELL_SHORT[record.outcome] or record.reason or "failed"
            elif record.left_site and short and not escalated:
                escalated = True
                self._escalations.add(1, {**task, names.ESCALATED_FOR: short})
        costs = [each.record.cost_nano_usd for each in journal.attempts if each.record.HasField("cost_nano_usd")]
        if costs:
            self._cost.record(sum(costs) / 1e9, task)
        last = journal.answering
        if (
            not facts.embeds
            and last.record.outcome == v1.ATTEMPT_OUTCOME_ANSWERED
            and last.record.HasField("first_token_ms")
        ):
            self._first.record(last.began - journal.began + last.record.first_token_ms / 1000, task)

    def inspection(self, found: Inspection) -> None:
        """A prompt was to be inspected."""
        self._inspections.add(1, {names.INSPECTION: found.result})

    def breaker(self, event: Event) -> None:
        """A breaker changed. Kinds of work are not told apart: there may be any number."""
        counted = "quality" if event.kind else "transport"
        self._breakers.add(
            1, {names.TARGET: event.target, names.BREAKER_STATE: _STATES[type(event)], names.BREAKER_OF: counted}
        )

    def forget(self, targets: Iterable[str]) -> None:
        """Drop the series of `targets`, which are there no more: addresses come and go, and names must not pile up."""
        gone = frozenset((names.TARGET, target) for target in targets)
        for counted in (self._local, self._refused, self._attempts, self._tokens, self._breakers):
            counted.forget(gone)

    def watch(self, cache: Cache | None, ledger: Ledger | None, spend: Spend) -> None:
        """Read off these what they count themselves, whenever metrics are collected."""
        meter = self._metrics.meter
        meter.create_observable_counter(
            names.BUDGET_CHARGED,
            [lambda options: [Observation(spend.charged_nano_usd / 1e9)]],
            "{USD}",
            "what was charged to budgets of tenants",
        )
        meter.create_observable_counter(
            names.BUDGET_REFUSED,
            [lambda options: [Observation(spend.refused)]],
            "{refusal}",
            "plans and attempts that a budget had nothing left for",
        )
        if cache is not None:
            tally = cache.tally

            def asked(options: CallbackOptions) -> Iterable[Observation]:
                for result in ("hits", "shared", "misses", "refreshes"):
                    yield Observation(getattr(tally, result), {names.CACHE: result})

            meter.create_observable_counter(names.CACHE_REQUESTS, [asked], "{request}", "requests of the cache")
            meter.create_observable_counter(
                names.CACHE_SAVED_TOKENS,
                [lambda options: [Observation(tally.saved_tokens)]],
                "{token}",
                "tokens that answers from the cache saved",
            )
            meter.create_observable_counter(
                names.CACHE_SAVED_COST,
                [lambda options: [Observation(tally.saved_nano_usd / 1e9)]],
                "{USD}",
                "what answers from the cache saved",
            )
        if ledger is not None:
            meter.create_observable_gauge(
                names.LEDGER_PENDING, [lambda options: [Observation(ledger.pending)]], "{row}", "rows that wait"
            )
            meter.create_observable_counter(
                names.LEDGER_LOST, [lambda options: [Observation(ledger.lost)]], "{row}", "rows dropped"
            )

    def _attempt(self, attempt: Attempt, task: Mapping[str, str], operation: str) -> None:
        record, target = attempt.record, attempt.target
        alike = _alike(
            task[names.TASK],
            operation,
            target.name,
            target.model,
            target.local,
            record.left_site,
            record.outcome,
            record.reason,
            record.model,
        )
        self._attempts.add(1, alike.attempt)
        if not record.left_site:
            self._local.add(1, alike.of_task)
        if record.outcome == v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR:
            self._refused.add(1, alike.of_task)
        if record.HasField("first_token_ms") and operation != EMBEDDINGS:  # vectors have no first token
            self._call_first.record(record.first_token_ms / 1000, alike.call)
        if record.HasField("prompt_tokens"):
            self._tokens.add(record.prompt_tokens, alike.given)
            self._usage.record(record.prompt_tokens, alike.call_given)
        if record.HasField("completion_tokens"):
            self._tokens.add(record.completion_tokens, alike.made)
            self._usage.record(record.completion_tokens, alike.call_made)
        self._call.record(record.duration_ms / 1000, alike.call_ended)

    def _counter(self, name: str, unit: str, description: str) -> Count:
        return Count(self._metrics.meter, name, unit, description)

    def __repr__(self) -> str:
        return f"<Measures of {self._metrics!r}>"


@record
class _Alike:
    """The attributes of attempts that are alike, as each instrument has them."""

    attempt: Attributes
    of_task: Attributes
    given: Attributes
    made: Attributes
    call: Attributes
    call_given: Attributes
    call_made: Attributes
    call_ended: Attributes


@lru_cache(MAX_SERIES)
def _alike(
    task: str,
    operation: str,
    target: str,
    model: str,
    local: bool,
    left_site: bool,
    outcome: v1.AttemptOutcome.ValueType,
    reason: str,
    answered_by: str,
) -> _Alike:
    of_target = (names.TARGET, target)
    given, made = (names.TOKEN_TYPE, "input"), (names.TOKEN_TYPE, "output")
    call = (
        (names.OPERATION, operation),
        (names.PROVIDER, LOCAL_PROVIDER if local else model.partition("/")[0] or target),
        (names.MODEL, model or target),
        (names.ANSWERED_BY, answered_by),
    )
    where, ended = (names.WHERE, "cloud" if left_site else "local"), (names.OUTCOME, OUTCOMES[outcome])
    return _Alike(
        attempt=(of_target, where, ended, (names.ERROR_TYPE, reason)),
        of_task=((names.TASK, task), of_target),
        given=(of_target, given),
        made=(of_target, made),
        call=call,
        call_given=(*call, given),
        call_made=(*call, made),
        call_ended=(*call, (names.ERROR_TYPE, reason)) if reason else call,
    )


class _Request:
    """A request that is measured: a class, because a generator costs three times as much."""

    __slots__ = ("_attributes", "_began", "_clock", "_duration")

    def __init__(self, duration: Histogram, clock: Clock, task: str) -> None:
        self._duration, self._clock = duration, clock
        self._attributes = {names.TASK: task}
        self._began = clock()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._attributes[names.ERROR_TYPE] = _reason(error)
        self._duration.record(self._clock() - self._began, self._attributes)


def _reason(error: BaseException) -> str:
    if isinstance(error, SpillwayError):
        return error.reason
    return "CANCELLED" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "INTERNAL"
