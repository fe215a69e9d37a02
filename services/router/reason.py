"""Why a target has answered, in one line."""

from __future__ import annotations

from spillway import v1

from .plan import Candidate
from .work import Planned

_WORDS = {
    v1.ATTEMPT_OUTCOME_ANSWERED: "answered",
    v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR: "was refused",
    v1.ATTEMPT_OUTCOME_CANCELLED: "did not go on",
    v1.ATTEMPT_OUTCOME_NOT_CONFIDENT: "was not confident",
}


def reason(work: Planned, candidate: Candidate, told: str = "") -> str:
    """Why this target has answered, in one line; `told` is what it said itself."""
    number = len(work.journal.attempts)
    failed = "; ".join(
        f"{attempt.target.name} {attempt.record.reason or _WORDS[attempt.record.outcome]}"
        for attempt in work.journal.attempts[:-1]
        if attempt.settled
    )
    there = f"; there {told}" if candidate.target.router else ""
    why = f"{candidate.reasons[0]} (attempt {number}, after {failed})" if failed else candidate.reasons[0]
    inspection = work.plan.facts.inspection
    found = f"; {inspection.told}" if inspection is not None and inspection.result != "clean" else ""
    kinds = work.vault.kinds if work.plan.redacts(candidate.target) else ()
    redacted = f"; redacted: {', '.join(kinds)}" if kinds else ""
    return why + found + redacted + there
