"""A model as far as its memory goes."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.doctor.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Weights:
    """`plain` weights take the width they are computed in; `packed_bytes` are quantized and stay as they are."""

    plain: int = 0
    packed_bytes: int = 0

    def bytes_at(self, width: float) -> int:
        """Return their bytes where a plain one takes `width` bytes: parameters x bits / 8."""
        return round(self.plain * width) + self.packed_bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A model to find a place for. `exact`: its weights were read off its files, not worked out from its shape.

    `folder_bytes`: size of its weights on disk, 0 for what is named by a hub id or a size alone.
    """

    name: str
    shape: Architecture
    weights: Weights
    parameters: int
    source: str
    exact: bool = False
    folder_bytes: int = 0

    @property
    def bits(self) -> float:
        """Bits of a weight, on average."""
        return self.weights.bytes_at(self.shape.width) * 8 / max(1, self.parameters)

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.parameters / 1e9:.2f}B x {self.bits:.3g} bits>"
