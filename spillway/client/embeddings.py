"""The vectors of several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spillway import v1


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A view of a `v1.EmbedResponse`. Vectors of different models do not compare: keep `model` beside them."""

    message: v1.EmbedResponse

    @property
    def vectors(self) -> list[Sequence[float]]:
        """One per input, in their order, all of one length."""
        return [one.values for one in self.message.embeddings]

    @property
    def request_id(self) -> str:
        return self.message.request_id

    @property
    def model(self) -> str:
        """The model that embedded."""
        return self.message.model

    @property
    def target(self) -> str:
        return self.message.target

    @property
    def route_reason(self) -> str:
        """Why this target, in one line."""
        return self.message.route_reason

    @property
    def usage(self) -> v1.Usage:
        return self.message.usage

    @property
    def attempts(self) -> Sequence[v1.Attempt]:
        """Every call to a target that was made for these vectors, in order."""
        return self.message.usage.attempts

    @property
    def cost_usd(self) -> float | None:
        """Cost of all attempts in USD; None where it is not known."""
        usage = self.message.usage
        return usage.cost_nano_usd / 1e9 if usage.HasField("cost_nano_usd") else None

    def __len__(self) -> int:
        return len(self.message.embeddings)

    def __repr__(self) -> str:
        return f"<Embeddings {self.request_id} {len(self)} from {self.target} by {self.model}>"
