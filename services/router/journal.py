"""The journal of one request: every attempt, accounted once, on every exit path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import AllTargetsFailed, SpillwayError
from spillway.rpc.call import Call

from .chain import take
from .confidence import Confidence
from .probe import Probe
from .spend import Hold
from .target import Target

Keep = Callable[["Attempt", Call], None]
"""Where settled attempts go: the ledger, the breakers."""


OUTCOMES: Mapping[int, str] = {
    number: name.removeprefix("ATTEMPT_OUTCOME_").lower() for name, number in v1.AttemptOutcome.items()
}
"""Outcome of an attempt -> how it is called."""

Announce = Callable[["Attempt", Call], Awaitable[None]]
"""Who is told of an attempt before it is made, and returns when it may be: the ledger."""


@dataclass(slots=True)
class Attempt:
    """One call to one target. Settled once; a second `settle` is a defect."""

    target: Target
    number: int
    began: float
    """On the journal's clock."""
    record: v1.Attempt
    probe: Probe | None = None
    """The right by which a sick target was tried."""
    hold: Hold | None = None
    """What is set aside of the tenant's budget."""
    kind: str = ""
    """Of work, where the answer was judged."""
    error: SpillwayError | None = None
    uid: str = ""
    """Of its row, where it was told of before it was made."""
    settled: bool = False
    committed: bool = False
    """Bytes of its answer are the caller's, though it is not whole."""
    took: int = 1
    """Calls to models; more than one only where the target is a router."""
    aside: bool = False
    """It was made to learn of another attempt's answer: a sample, or a judge's opinion."""
    left: bool = False
    """Its target has done its part, and has its place again; what came of it is not settled yet."""
    confidence: Confidence | None = None
    """In its answer, where that was asked."""

    def __repr__(self) -> str:
        return f"<Attempt {self.number} {self.target.name} {OUTCOMES[self.record.outcome]} {self.record.reason}>"


@dataclass(slots=True)
class Journal:
    """All attempts of one request, in order."""

    call: Call
    clock: Clock
    keep: Keep
    announce: Announce | None = None
    max_attempts: int = 8
    beside: int = 0
    """Attempts besides the answer's: those planned for summaries and notes, and those made aside."""
    stays: bool = False
    """The content may not leave the site."""
    alive: Callable[[], None] = lambda: None
    """Told of every first token."""
    began: float = field(init=False)
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def attempts_left(self) -> int:
        """Attempts that may still be made, at this router and those behind it."""
        allowed = min(self.max_attempts, self.call.attempts_left or self.max_attempts) + self.beside
        return allowed - sum(attempt.took for attempt in self.attempts) if self.attempts else allowed

    @property
    def committed(self) -> bool:
        """Whether bytes of an answer that is not whole are the caller's: no other attempt can replace it."""
        return any(attempt.committed for attempt in self.attempts)

    def admit(self, *, aside: bool = False) -> None:
        """Raise AllTargetsFailed where no attempt may be made any more. One made `aside` takes nothing from others."""
        if self.attempts_left + aside <= 0:
            raise AllTargetsFailed("no attempt is left to this request", metadata=self.told())

    def onward(self, attempt: Attempt) -> Call:
        """The call as `attempt`, which has just begun, makes it: a router may use up what is left."""
        if not attempt.target.router:
            return self.call
        return replace(self.call, attempts_left=self.attempts_left + attempt.took)

    def begin(
        self, target: Target, probe: Probe | None = None, hold: Hold | None = None, *, aside: bool = False
    ) -> Attempt:
        """Open an attempt at `target`."""
        record = v1.Attempt(target=target.name, model=target.model, region=target.region, left_site=not target.local)
        attempt = Attempt(target, len(self.attempts) + 1, self.clock(), record, probe, hold, aside=aside)
        self.attempts.append(attempt)
        self.beside += aside
        return attempt

    async def intend(self, attempt: Attempt) -> None:
        """Tell of `attempt` before it is made."""
        if self.announce is not None:
            try:
                await self.announce(attempt, self.call)
            except BaseException:
                self.settle(attempt, v1.ATTEMPT_OUTCOME_CANCELLED)
                raise

    def first_token(self, attempt: Attempt) -> None:
        """The target gave its first sign of life."""
        if not attempt.record.HasField("first_token_ms"):
            attempt.record.first_token_ms = (self.clock() - attempt.began) * 1000
            self.alive()

    @property
    def answering(self) -> Attempt:
        """The last attempt that was made for the answer itself."""
        last = self.attempts[-1]
        return next(attempt for attempt in reversed(self.attempts) if not attempt.aside) if last.aside else last

    def leave(self, attempt: Attempt) -> None:
        """The target of `attempt` has answered; what is still asked of others is not of its time."""
        attempt.left = True
        attempt.record.duration_ms = (self.clock() - attempt.began) * 1000

    def settle(
        self,
        attempt: Attempt,
        outcome: v1.AttemptOutcome.ValueType,
        *,
        error: SpillwayError | None = None,
        model: str = "",
        usage: v1.Usage | None = None,
    ) -> None:
        """Close `attempt`. Its cost is the target's own word, else its declared price, else unknown."""
        assert not attempt.settled, f"{attempt!r} is settled twice"
        attempt.settled = True
        record = attempt.record
        record.outcome = outcome
        if not attempt.left:
            record.duration_ms = (self.clock() - attempt.began) * 1000
        record.model = model or record.model
        attempt.error = error
        if attempt.confidence is not None and attempt.confidence.score is not None:
            record.confidence = attempt.confidence.score
        if error is not None:
            record.reason = error.reason
            record.message = error.message[:200]
        if usage is not None:
            if usage.HasField("prompt_tokens"):
                record.prompt_tokens = usage.prompt_tokens
            if usage.HasField("completion_tokens"):
                record.completion_tokens = usage.completion_tokens
            if usage.HasField("cost_nano_usd"):
                record.cost_nano_usd = usage.cost_nano_usd
            elif attempt.target.price is not None and usage.HasField("completion_tokens"):
                record.cost_nano_usd = attempt.target.price.cost(usage.prompt_tokens, usage.completion_tokens)
        if attempt.target.router:
            attempt.took = take(record, usage, error, stays=self.stays)
        self.keep(attempt, self.call)

    def complete(self, usage: v1.Usage) -> None:
        """Tell in `usage` what the whole request took: attempts, cost of all, time since it came."""
        records = [attempt.record for attempt in self.attempts]
        del usage.attempts[:]  # of a router; they are in its record
        usage.attempts.extend(records)
        costs = [record.cost_nano_usd for record in records if record.HasField("cost_nano_usd")]
        if costs:
            usage.cost_nano_usd = sum(costs)
        usage.timings.total_ms = (self.clock() - self.began) * 1000
        last = self.answering
        if last.record.HasField("first_token_ms"):
            usage.timings.first_token_ms = (last.began - self.began) * 1000 + last.record.first_token_ms

    def told(self) -> dict[str, str]:
        """The attempts as metadata of an error."""
        return {
            f"attempt_{attempt.number}": f"{attempt.target.name}: {attempt.record.reason} after "
            f"{attempt.record.duration_ms:.0f} ms: {attempt.record.message}"
            for attempt in self.attempts
        }
