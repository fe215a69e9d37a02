"""Conversations as tokens, with the weight of each token as something to learn."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers import Tokenizer

from training.bundled_model.cases import Case
from training.bundled_model.clauses import LABELS
from training.bundled_model.corpus import Turn
from training.bundled_model.tokenizer import ASSISTANT, END, PAD, SPECIALS, SYSTEM, USER

LABEL_WEIGHT = 2.0
"""Added to the weight of the token that decides a label: the hardest one to get right, and a small part of the rest."""

_LABEL = re.compile(rf"(?:^|\"(?:issue|label)\": \"|about )({'|'.join(LABELS)})")
_ROLES = {"system": SPECIALS.index(SYSTEM), "user": SPECIALS.index(USER), "assistant": SPECIALS.index(ASSISTANT)}
PAD_ID, _END = SPECIALS.index(PAD), SPECIALS.index(END)


@dataclass(frozen=True)
class Encoded:
    """Tokens of one conversation, with the weight of each as a target (0 for what the user says)."""

    tokens: list[int]
    weights: list[float]


def encode(tokenizer: Tokenizer, turns: list[Turn]) -> Encoded:
    """Encode a conversation exactly as the chat template renders it.

    An answer of n tokens weighs sqrt(n) in all; a label, alone or in JSON, weighs ``LABEL_WEIGHT`` on top.
    """
    tokens: list[int] = []
    weights: list[float] = []
    for turn in turns:
        pieces = tokenizer.encode(turn.content)
        body = [*pieces.ids, _END]
        tokens += [_ROLES[turn.role], *body]
        if turn.role != "assistant":
            weights += [0.0] * (len(body) + 1)
            continue
        told = [len(body) ** -0.5] * len(body)
        if (label := _LABEL.search(turn.content)) is not None and turn.task in ("classify", "extract", "bare"):
            at = label.start(1)
            for index, (begin, end) in enumerate(pieces.offsets):
                if begin <= at < end:
                    told[index] += LABEL_WEIGHT
        weights += [0.0, *told]
    return Encoded(tokens, weights)


def encode_case(tokenizer: Tokenizer, case: Case) -> Encoded:
    """A measured question with its expected answer as the only target."""
    asked = encode(tokenizer, list(case.turns))
    answered = encode(tokenizer, [Turn("assistant", case.answer)])
    return Encoded(asked.tokens + answered.tokens, asked.weights + answered.weights)
