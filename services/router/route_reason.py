"""The route reason: why a target has answered, in one line."""

from __future__ import annotations

from spillway import v1

from .journal import Attempt
from .plan import Candidate
from .work import Planned

_WORDS = {
    v1.ATTEMPT_OUTCOME_ANSWERED: "answered",
    v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR: "was refused",
    v1.ATTEMPT_OUTCOME_FAILED: "failed",  # by no fault of its target: nobody could judge its answer
    v1.ATTEMPT_OUTCOME_CANCELLED: "did not go on",
    v1.ATTEMPT_OUTCOME_NOT_CONFIDENT: "was not confident",
}


def reason(work: Planned, candidate: Candidate, told: str = "") -> str:
    """Why this target has answered; `told` is what it said itself."""
    found, last = candidate.reasons[0], work.journal.attempts[-1]
    if last.number > 1:
        made = [attempt for attempt in work.journal.attempts if not attempt.aside]
        last = next(attempt for attempt in reversed(made) if attempt.target is candidate.target)  # a hedge may be later
        before = [attempt for attempt in made if attempt.number < last.number]
        threshold = work.plan.limits.confidence_threshold
        failed = "; ".join(f"{attempt.target.name} {_end(attempt, threshold)}" for attempt in before if attempt.settled)
        found += f" (attempt {last.number}, after {failed})" if failed else ""
    if last.confidence is not None:
        found += f"; {last.confidence.told}"
    inspection = work.plan.facts.inspection
    if inspection is not None and inspection.result != "clean":
        found += f"; {inspection.told}"
    if work.plan.redacts(candidate.target) and (kinds := work.vault.kinds):
        found += f"; redacted: {', '.join(kinds)}"
    return f"{found}; there {told}" if candidate.target.router else found


def _end(attempt: Attempt, threshold: float) -> str:
    end = attempt.record.reason or _WORDS[attempt.record.outcome]
    if attempt.record.outcome == v1.ATTEMPT_OUTCOME_NOT_CONFIDENT and attempt.confidence is not None:
        return f"{end} ({attempt.confidence.against(threshold)})"
    return end
