"""One request's work: what was asked, what was decided, and the account of what is done about it."""

from __future__ import annotations

from dataclasses import dataclass

from spillway import v1
from spillway.rpc.call import Call

from .journal import Journal
from .plan import Plan


@dataclass(frozen=True, slots=True)
class Work:
    """A request with the plan made for it."""

    spec: v1.GenerationSpec
    policy: v1.RoutingPolicy
    plan: Plan
    call: Call
    journal: Journal
    stamped: bool = False
    """It came from another router."""
