"""Random generators of a CPU that can be taken back, as vLLM takes back what it drew for a part of a prompt.

It does so by an offset that only the generators of GPUs have: a seed and a prompt that is computed in parts end the
engine (vLLM 0.32). Ours go back to where they were seeded: nothing was drawn since that counts.
"""

from __future__ import annotations

import torch


class Generator(torch.Generator):
    """Torch's, with an offset that stands for the seed."""

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed(seed)
        self._seeded = self.get_state()
        return self

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> Generator:
        self.set_state(self._seeded)
        return self


def rewind_generators() -> None:
    """Have this process make its generators so."""
    torch.Generator = Generator  # type: ignore[misc]
