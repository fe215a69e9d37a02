"""What a provider is to the proxy, whatever it speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from spillway import v1
from spillway.openai.exchange import Exchange
from spillway.rpc.call import Call

__all__ = ["Exchange", "Prepared", "Provider"]


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

    async def embed(self, spec: v1.EmbeddingSpec, model: str, call: Call, exchange: Exchange) -> v1.EmbedResponse:
        """Return the vectors that `model` makes under `call`'s deadline, all of them, in the order of the inputs.

        Raises `SpillwayError` where they do not come. Cancelled, it closes the connection to the provider at once.
        """
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...
