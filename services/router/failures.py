"""What has gone wrong with one request so far, what that leaves to try, and the error it ends with."""

from __future__ import annotations

from collections.abc import Iterator

from spillway import v1
from spillway.errors import (
    AllTargetsFailed,
    BreakerOpen,
    ContextLengthExceeded,
    CostCap,
    DeadlineExceeded,
    OutputInvalid,
    PolicyBlocked,
    ProviderError,
    SpillwayError,
    StreamInterrupted,
    TargetDown,
)

from .journal import Attempt
from .plan import Candidate
from .target import Target
from .work import Planned

FLEETING_MS = 1000.0
"""A target that took longer to fail has had its chance."""


class Failures:
    """The failures of one request, in order."""

    def __init__(self, work: Planned) -> None:
        self._work = work
        self._error: SpillwayError | None = None
        self._verdict: v1.Verdict | None = None
        self._larger_than = 0
        self._left = list(work.plan.taken)
        self._preferred = ""

    @property
    def last(self) -> str:
        """Reason of the last error, empty if there was none."""
        return self._error.reason if self._error is not None else ""

    def still_worth_trying(self) -> Iterator[Candidate]:
        """Yield the plan's targets; after an error that no other target can mend, or the commit, none."""
        while self._left:
            if self._error is not None and not self._error.elsewhere:
                return
            if self._work.call.deadline.passed or self._work.journal.committed:
                return
            candidate = self._left[0]
            if self._preferred:
                candidate = next((left for left in self._left if self._goes_on(left)), candidate)
            self._left.remove(candidate)
            window = candidate.target.context_window
            if self._larger_than and window is not None and window <= self._larger_than:
                continue
            yield candidate
            if isinstance(self._error, ContextLengthExceeded):
                self._larger_than = max(self._larger_than, window or 0)

    @property
    def exhausted(self) -> bool:
        """Whether every target of the plan has been given out."""
        return not self._left

    def prefer(self, weights: str) -> bool:
        """From now on try targets with these weights first; whether there are any left."""
        self._preferred = weights
        return any(map(self._goes_on, self._left))

    def _goes_on(self, candidate: Candidate) -> bool:
        return bool(self._preferred) and candidate.target.weights == self._preferred

    def add(self, error: SpillwayError) -> None:
        """An attempt failed."""
        self._error = error
        if self._work.journal.committed:
            self._verdict = None  # of one before it, which does not matter any more

    def refuse(self, verdict: v1.Verdict, target: Target) -> None:
        """An answer of `target` came and was refused."""
        self._verdict = verdict
        self.pass_over(target)

    def pass_over(self, target: Target) -> None:
        """`target` has said what it can; its replicas would say the same, so they are not asked."""
        self._left = [left for left in self._left if left.target.called != target.called]

    def outcome(self) -> SpillwayError:
        """The error of a request that nothing answered."""
        error, journal = self._error, self._work.journal
        if self._work.call.deadline.passed:
            return DeadlineExceeded("the deadline passed before any target answered", metadata=journal.told())
        if error is not None and (not error.elsewhere or (journal.committed and self._verdict is None)):
            return error
        if isinstance(error, BreakerOpen | PolicyBlocked) and not journal.attempts:
            return error
        if self._verdict is not None:
            found = "; ".join(f"{finding.path or '/'}: {finding.message}" for finding in self._verdict.findings[:3])
            what = (
                "the answer was refused after its beginning was given"
                if journal.committed
                else "every answer was refused"
            )
            return OutputInvalid(f"{what}: {found}", metadata=journal.told())
        if isinstance(error, ContextLengthExceeded | CostCap):
            return error
        tried = ", ".join(
            f"{attempt.target.name} ({attempt.record.reason or 'did not go on'})" for attempt in journal.attempts
        )
        return AllTargetsFailed(
            f"all targets failed: {tried}",
            retry_after_s=error.retry_after_s if error is not None else None,
            metadata=journal.told(),
        )

    def __repr__(self) -> str:
        return f"<Failures {self.last or 'none'}>"


def fleeting(attempt: Attempt) -> bool:
    """Whether a failed attempt was over so fast, and in such a way, that its target may well answer if asked again.

    Silence is not, nor is a target that said when to come back, nor a limit.
    """
    error = attempt.error
    return (
        isinstance(error, ProviderError | TargetDown)
        and error.retry_after_s is None
        and attempt.record.duration_ms <= FLEETING_MS
    )


def interrupted(error: SpillwayError, sequence: int, tokens: int, work: Planned) -> SpillwayError:
    """The error of a stream that had already begun; the caller has been given `sequence` events and `tokens` tokens."""
    if isinstance(error, DeadlineExceeded):
        return error
    return StreamInterrupted(
        f"the stream was cut after {tokens} tokens: {error.reason}: {error.message}",
        metadata={"last_sequence": str(sequence - 1), "tokens": str(tokens), **work.journal.told()},
    )
