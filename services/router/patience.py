"""How long a target may keep a request waiting: its share of the deadline, and how much is held of what it says."""

from __future__ import annotations

from .plan import Candidate
from .work import Planned, Work


def silence_s(work: Planned, candidate: Candidate) -> float:
    """Seconds a target may stay silent: its share of what is left; for the last one the deadline itself rules."""
    if candidate is work.plan.taken[-1]:
        return work.call.deadline.left() + 1.0
    return share_s(work, candidate)


def idle_s(work: Work, candidate: Candidate) -> float:
    """Seconds between two tokens: where another target may take over, so few that it has time to."""
    limit = work.plan.limits.idle_s
    return limit if candidate is work.plan.taken[-1] else min(limit, share_s(work, candidate))


def share_s(work: Planned, candidate: Candidate) -> float:
    """Seconds of the deadline that are this target's, to show itself."""
    left = work.call.deadline.left()
    return min(left, max(candidate.target.first_token_floor_s, left * work.plan.limits.first_token_share))


def probe_tokens(work: Work) -> int:
    """Tokens that PROBED delivery holds: the caller's wish, else the policy's."""
    delivery = work.policy.delivery
    return max(1, delivery.probe_tokens) if delivery.HasField("probe_tokens") else work.plan.limits.probe_tokens
