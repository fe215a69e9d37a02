"""Inspection: what the validator found in a prompt, and what follows for its data policy. Pure; kinds, never text."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from spillway.egress import DataPolicy, Residency, Sensitivity

SENSITIVITY_OF: Mapping[str, Sensitivity] = {
    "card": Sensitivity.RESTRICTED,
    "iban": Sensitivity.RESTRICTED,
    "national_id": Sensitivity.RESTRICTED,
    "secret": Sensitivity.RESTRICTED,
    "phone": Sensitivity.CONFIDENTIAL,
    "email": Sensitivity.CONFIDENTIAL,
    "ip_address": Sensitivity.CONFIDENTIAL,
}
"""How sensitive a prompt is that holds something of a kind, unless its policy says otherwise."""


def sensitivity_of(kind: str, said: Mapping[str, Sensitivity] = SENSITIVITY_OF) -> Sensitivity:
    """How sensitive `kind` is by what a policy says, else by default; a kind that neither knows is most sensitive."""
    return said.get(kind, SENSITIVITY_OF.get(kind, Sensitivity.RESTRICTED))


@dataclass(frozen=True, slots=True)
class Inspection:
    """One look at a prompt. `kinds` are what was found, where nothing was in the way."""

    kinds: frozenset[str] = frozenset()
    unreadable: tuple[str, ...] = ()
    """What of the prompt nobody can read."""
    away: str = ""
    """Why the validator did not look; empty if it did, or had no need to."""
    sealed: tuple[str, ...] = ()
    """What of the prompt must stay as it is, though nothing readable stands in it."""
    raises: bool = True
    """What was found raises the sensitivity. Else it was looked for only to be redacted."""
    marked: bool = False
    """Something in it speaks as if it could command the model: a sign, by which rules may go."""

    def demands(self, said: Mapping[str, Sensitivity]) -> DataPolicy:
        """What the content is bound by, at least, under a policy that says how sensitive kinds are."""
        if self.away:
            return DataPolicy(Residency.LOCAL_ONLY, sensitivity=Sensitivity.RESTRICTED)
        if self.unreadable:
            return DataPolicy(sensitivity=Sensitivity.RESTRICTED)
        found = (sensitivity_of(kind, said) for kind in self.kinds)
        return DataPolicy(sensitivity=max(found, default=Sensitivity.UNSPECIFIED))

    def without(self, kinds: Container[str]) -> Inspection:
        """The same, had nothing of these kinds been there."""
        return replace(self, kinds=frozenset(kind for kind in self.kinds if kind not in kinds))

    @property
    def told(self) -> str:
        """What came of it, in words."""
        if self.away:
            return f"not inspected: {self.away}"
        if self.unreadable:
            return f"inspection cannot read {', '.join(self.unreadable)}"
        found = [*sorted(self.kinds), *(["signs of injection"] if self.marked else [])]
        return f"inspection found {', '.join(found) or 'nothing'}"

    @property
    def result(self) -> str:
        """What came of it, in one word."""
        return (
            "away"
            if self.away
            else "unreadable"
            if self.unreadable
            else "found"
            if self.kinds or self.marked
            else "clean"
        )

    def __repr__(self) -> str:
        return f"<Inspection {self.told}>"
