"""One request's work: what was asked, what was decided, and the account of what is done about it."""

from __future__ import annotations

from dataclasses import field

from spillway import v1
from spillway.embedding import Spec
from spillway.record import record
from spillway.rpc.call import Call
from spillway.rpc.lane import Lane

from .journal import Journal
from .plan import Plan
from .release import Release
from .vault import Vault


@record
class Planned:
    """A request with the plan made for it."""

    spec: Spec
    policy: v1.RoutingPolicy
    plan: Plan
    call: Call
    journal: Journal
    stamped: bool = False
    """It came from another router."""
    aside: bool = False
    """What is asked is not the answer itself, but helps to judge one."""
    vault: Vault = field(default_factory=Vault)
    """What the placeholders stand for that it leaves with."""


@record
class Work(Planned):
    """A generation."""

    spec: v1.GenerationSpec
    release: Release | None = None
    """Where its records go, as they are accepted."""
    lane: Lane | None = None
    """By which its deltas may go while nobody has to read them."""


@record
class Embedding(Planned):
    """An embedding."""

    spec: v1.EmbeddingSpec
