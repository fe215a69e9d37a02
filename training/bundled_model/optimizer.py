"""Muon: momentum whose update for a matrix is orthogonalised (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic Newton-Schulz iteration, from the source above."""


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly, of a stack (count, rows, columns)."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(_STEPS):
        gram = x @ x.transpose(1, 2)
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = x.transpose(1, 2) if tall else x
    return result


class Muon:
    """Keeps one momentum buffer per group of equally shaped matrices and updates the group at once."""

    def __init__(self, matrices: list[Tensor], momentum: float = 0.95, weight_decay: float = 0.02) -> None:
        groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            groups[tuple(matrix.shape)].append(matrix)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.momentum = momentum
        self.weight_decay = weight_decay

    def __repr__(self) -> str:
        return f"<Muon {sum(len(group) for group in self.groups)} matrices>"

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Apply the gradients with learning rate ``rate`` and clear them."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradients = torch.stack([weight.grad if weight.grad is not None else weight * 0 for weight in group])
            buffer.lerp_(gradients, 1 - self.momentum)
            update = orthogonalize(gradients.lerp(buffer, self.momentum))
            scale = max(1.0, buffer.shape[1] / buffer.shape[2]) ** 0.5
            for weight, change in zip(group, update, strict=True):
                weight.mul_(1 - rate * self.weight_decay).add_(change, alpha=-rate * scale)
                weight.grad = None
