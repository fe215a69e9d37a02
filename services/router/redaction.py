"""Redaction: which kinds of sensitive data leave the site as placeholders alone, and what that changes. Pure.

Kinds, never text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .inspection import Inspection

ALL = "all"


@dataclass(frozen=True, slots=True)
class Kinds:
    """Some kinds of sensitive data, or every one, those that nobody has thought of included."""

    names: frozenset[str] = frozenset()
    every: bool = False

    @classmethod
    def stated(cls, said: str | Iterable[str]) -> Kinds:
        """What settings say: `all`, or names."""
        return EVERY if said == ALL else cls(frozenset(said))

    @property
    def told(self) -> str | frozenset[str]:
        """As settings say it."""
        return ALL if self.every else self.names

    def __bool__(self) -> bool:
        return self.every or bool(self.names)

    def __contains__(self, kind: object) -> bool:
        return self.every or kind in self.names

    def __or__(self, other: Kinds) -> Kinds:
        return EVERY if self.every or other.every else Kinds(self.names | other.names)

    def __and__(self, other: Kinds) -> Kinds:
        if self.every or other.every:
            return other if self.every else self
        return Kinds(self.names & other.names)

    def __repr__(self) -> str:
        return f"<Kinds {ALL if self.every else ', '.join(sorted(self.names)) or 'none'}>"


EVERY = Kinds(every=True)
NONE = Kinds()
_FORMED = frozenset({"regex", "grammar"})
"""Forms of answers in which a decoder can write no placeholder."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is done to content that leaves the site. `kinds` get placeholders there, wherever they are found."""

    kinds: Kinds = NONE
    releases: Kinds = NONE
    """Of these a finding no longer keeps the content on the site, since it does not leave."""

    def asked(self) -> Redaction:
        """The same where a caller wants it too: everything gets placeholders, and nothing more may leave."""
        return replace(self, kinds=EVERY)

    def tightened(self, other: Redaction) -> Redaction:
        """Both at once: what either replaces is replaced, what both release is released."""
        return Redaction(self.kinds | other.kinds, self.releases & other.releases)

    def of(self, inspection: Inspection | None) -> tuple[str, ...]:
        """The kinds of what was found that get placeholders."""
        return tuple(sorted(kind for kind in inspection.kinds if kind in self.kinds)) if inspection is not None else ()

    def objection(self, inspection: Inspection | None, needs: frozenset[str]) -> str:
        """Why content cannot leave redacted, empty if it can; `needs` are the capabilities that the request needs."""
        if not self.kinds:
            return ""
        if inspection is None:
            return "nobody has looked for what is to be redacted"
        if inspection.away:
            return inspection.told
        if fixed := (*inspection.unreadable, *inspection.sealed):
            return f"{', '.join(fixed)} cannot be redacted"
        found = ", ".join(self.of(inspection))
        if found and "embeddings" in needs:
            return f"it holds {found}, and vectors of placeholders are of no use"
        if found and (formed := _FORMED & needs):
            return f"it holds {found}, and placeholders have no place in a {', '.join(sorted(formed))}"
        return ""


AS_IT_IS = Redaction()
"""Nothing is replaced."""
