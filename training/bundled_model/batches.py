"""Token batches: conversations encoded, bucketed by length and padded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.bundled_model.corpus import conversation, training_stream
from training.bundled_model.encoding import PAD_ID, Encoded, encode
from training.bundled_model.message import TRAINING

LONGEST = 1000
"""Conversations of more tokens than this are left out."""
BUCKET = 640
"""Conversations drawn at a time; batches are cut from them in order of length."""


@dataclass(frozen=True)
class Batch:
    """Inputs (batch, length), the flat positions that are targets, the targets and their weights."""

    inputs: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor


def collate(items: list[Encoded]) -> Batch:
    """Pad to the longest and keep apart the positions that are learned from."""
    longest = max(len(item.tokens) for item in items)
    tokens = torch.tensor([item.tokens + [PAD_ID] * (longest - len(item.tokens)) for item in items])
    weights = torch.tensor([item.weights + [0.0] * (longest - len(item.weights)) for item in items])
    following = weights[:, 1:].reshape(-1)
    positions = following.nonzero().squeeze(1)
    return Batch(tokens[:, :-1], positions, tokens[:, 1:].reshape(-1)[positions], following[positions])


def cut(items: list[Encoded], batch_tokens: int) -> Iterator[list[Encoded]]:
    """Groups of similar length whose padded size stays within ``batch_tokens``."""
    group: list[Encoded] = []
    for item in sorted(items, key=lambda item: len(item.tokens)):
        if group and len(item.tokens) * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def stream(tokenizer: Tokenizer, seed: int, batch_tokens: int, copy_share: Callable[[], float]) -> Iterator[Batch]:
    """Endless batches of fresh conversations."""
    order = random.Random(seed)
    generators = training_stream(seed)
    while True:
        items: list[Encoded] = []
        while len(items) < BUCKET:
            item = encode(tokenizer, conversation(next(generators), TRAINING, copy_share()))
            if len(item.tokens) <= LONGEST:
                items.append(item)
        groups = list(cut(items, batch_tokens))
        order.shuffle(groups)
        for group in groups:
            yield collate(group)
