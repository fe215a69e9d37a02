"""What a provider is to the proxy, and what a wire format is to the provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.key import Key
from spillway import v1
from spillway.errors import SpillwayError
from spillway.openai.exchange import Exchange as WireExchange
from spillway.rpc.call import Call


@dataclass(slots=True)
class Exchange(WireExchange):
    """What became of one request, and what the provider's headers said is left of its limits."""

    sent_bytes: int = 0
    """Of bodies, every time one was sent."""
    allowances: tuple[Allowance, ...] = ()
    head_at: float | None = None
    """When the head of its answer came, by the clock of the call's deadline: the provider had the request by then."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it goes out: POST `body` to `path`, which is added to the provider's base URL."""

    path: str
    body: bytes = field(repr=False)
    choices: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one answer: what is read at once becomes one delta per choice."""

    done: bool
    """Nothing more of it is to come."""

    def take(self, events: Iterable[bytes]) -> list[v1.Delta]:
        """Read the data of server-sent events. Raises the SpillwayError that an error among them means."""
        ...

    def whole(self, body: bytes) -> list[v1.Delta]:
        """Read an answer that came in one piece."""
        ...

    def check(self) -> None:
        """Raise SpillwayError unless the whole answer was read; else tell the exchange how every choice ended."""
        ...


class Wire(Protocol):
    """One wire format, for one provider's settings. Pure: what it is given, it maps; it sends nothing."""

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        """Map `spec` for `model`. Raises ConstraintUnsupported or RequestInvalid naming the field that does not fit."""
        ...

    def read(self, prepared: Prepared, exchange: Exchange) -> Reader:
        """Return who reads the answer to `prepared`, and tells `exchange` what it learns."""
        ...

    def prepare_embedding(self, spec: v1.EmbeddingSpec, model: str) -> Prepared:
        """Map `spec` for `model`. Raises ConstraintUnsupported where this wire format embeds nothing, or not this."""
        ...

    def read_embedding(self, body: bytes, spec: v1.EmbeddingSpec, exchange: Exchange) -> v1.EmbedResponse:
        """Return the vectors of `body` in the order of the inputs. Raises ProviderError where they are not all there.

        Called in a thread: numbers that are written out take long to read.
        """
        ...

    def headers(self, key: Key | None) -> dict[str, str]:
        """Return what every request is sent with, `key` among it."""
        ...

    def refusal(
        self, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
    ) -> SpillwayError:
        """Return what an answer of `status` means. `body`: its JSON, None if it has none; names of `headers` are in
        lower case; `now`: seconds since the epoch."""
        ...

    def request_id(self, headers: Mapping[str, str]) -> str:
        """Return the provider's own name of the request, empty if it tells none."""
        ...

    def allowances(self, headers: Mapping[str, str], *, now: float) -> tuple[Allowance, ...]:
        """Return what `headers` say is left of the provider's limits."""
        ...

    def models_path(self) -> str:
        """Return where the provider lists its models, to be added to its base URL."""
        ...

    def read_models(self, body: bytes) -> list[str]:
        """Return the names of the models that `body` lists. Raises ProviderError for anything else."""
        ...


class Provider(Protocol):
    """One provider over one pool of connections."""

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

    async def models(self, call: Call) -> list[str]:
        """Return the names of the models that the provider says it serves. Raises `SpillwayError`."""
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...
