"""What a judgement policy holds answers to: forms, which are judged as any constraint is, and rules over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import Field

from services.validator.verdict import Constraint, Finding
from spillway.settings import Section


class RuleSettings(Section):
    """What every rule of a policy may say of itself."""

    name: str = Field("", pattern=r"^[\w-]*$", description="what findings call it; default: its kind")


@dataclass(frozen=True, slots=True)
class Form:
    """A rule that is a constraint."""

    description: str
    """What it asks for, in a sentence that a model can act on."""
    constraint: Constraint


class Rule(Protocol):
    """A rule over the text of an answer: frozen data, and a judgement that depends on nothing else."""

    @property
    def description(self) -> str:
        """What it asks for, in a sentence that a model can act on."""
        ...

    @property
    def inline_chars(self) -> int:
        """How long a text may be, in characters, to be judged in the event loop; 0: none is."""
        ...

    def findings(self, text: str) -> Sequence[Finding]:
        """Return what is wrong with `text`."""
        ...


class Reader(Protocol):
    """Reads one answer on its way."""

    def take(self, piece: str) -> Finding | None:
        """Read what has arrived; return what is wrong where no end can make it right."""
        ...


@runtime_checkable
class Early(Protocol):
    """A rule that may know before the end."""

    def reader(self) -> Reader: ...
