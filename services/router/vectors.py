"""Vectors of different models do not compare: which model embeds must not be chance. Pure.

What is looked at is the same from one request to the next: not who is well, what is left to spend, how sensitive an
input is, or which policy that gave it. Otherwise a store would be fed by one model today and by another tomorrow, and
nobody would be told.
"""

from __future__ import annotations

from collections.abc import Iterable

from spillway.errors import FieldViolation, RequestInvalid

from .facts import Facts
from .policy import Policy
from .target import Target

LASTING = ("rpc", "model", "wishes")
"""Rules that leave out the same targets whatever happens, and whatever is embedded."""


def comparable(one: Target, other: Target) -> bool:
    """Whether the vectors of both may stand in one store: they are of one model by its name, or of the same weights."""
    if one.weights and one.weights == other.weights:
        return True
    return one.model == other.model if one.model and other.model else one.called == other.called


def require_one_model(facts: Facts, policy: Policy, targets: Iterable[Target]) -> None:
    """Raise RequestInvalid naming `spec.model` where vectors are asked for that may be of one model or of another.

    `targets` are all there are, well or not.
    """
    if not facts.embeds or policy.mixes_vectors:
        return
    found = [target for target in targets if policy.could(facts, target, LASTING)]
    if all(comparable(found[0], other) for other in found[1:]):
        return
    told = ", ".join(f"{target.name} ({target.model or 'its own model'})" for target in found[:8])
    said = f"must say which model embeds, as vectors of different models do not compare: {told}"
    raise RequestInvalid(f"spec.model: {said}", fields=[FieldViolation("spec.model", said)])
