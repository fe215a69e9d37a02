"""How one runtime is spoken to: what a request becomes, and how its answer is read."""

from __future__ import annotations

from typing import Any, Protocol

from spillway import v1
from spillway.openai.exchange import Exchange


class Reader(Protocol):
    """One answer on its way."""

    @property
    def done(self) -> bool:
        """Nothing more is to come."""
        ...

    def feed(self, data: bytes) -> list[v1.Delta]:
        """Read bytes of a stream as they came, one delta per choice; none at all mean its end."""
        ...

    def whole(self, body: bytes) -> list[v1.Delta]:
        """Read an answer that came in one piece."""
        ...

    def check(self) -> None:
        """Raise unless the whole answer is there; else tell the exchange how it ended."""
        ...


class Dialect(Protocol):
    """A wire format. Raises SpillwayError alone, and decides without sending anything."""

    @property
    def path(self) -> str:
        """Where answers are asked for, below the runtime's root."""
        ...

    def body(self, spec: v1.GenerationSpec, model: str) -> dict[str, Any]:
        """Return the request. Raises ConstraintUnsupported or RequestInvalid naming the field that does not fit."""
        ...

    def reader(self, choices: int, exchange: Exchange) -> Reader: ...
