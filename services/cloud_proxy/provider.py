"""What a provider is to the proxy, whatever it speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from spillway import v1
from spillway.rpc.call import Call


@dataclass(slots=True)
class Exchange:
    """What became of one request; the provider fills it in as it goes, so that every exit path can be accounted."""

    sent: bool = False
    """The provider may have seen the request."""
    status: int | None = None
    """HTTP status."""
    model: str = ""
    """The model that answers, as the provider names it."""
    provider_request_id: str = ""
    said_bytes: int = 0
    """UTF-8 bytes of the answer so far, arguments of tools included."""
    finishes: list[v1.ChoiceFinish] = field(default_factory=list)
    """How every choice ended; filled when the whole answer is there."""
    usage: v1.Usage | None = None
    """As the provider counted; absent while it has not told."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it goes out."""

    body: bytes
    choices: int


class Provider(Protocol):
    """One provider's wire format over one pool of connections."""

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        """Map `spec` for `model`. Raises ConstraintUnsupported or RequestInvalid naming the field that does not fit."""
        ...

    def stream(self, prepared: Prepared, call: Call, exchange: Exchange) -> AsyncGenerator[list[v1.Delta], None]:
        """Send it under `call`'s deadline and yield what has arrived since the last pull, one delta per choice.

        It ends when the answer is whole and raises `SpillwayError` where it is not. Closed early, it closes the
        connection to the provider at once.
        """
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...
