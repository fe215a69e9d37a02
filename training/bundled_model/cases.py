"""Questions that a model is measured on, drawn from a split that training never shows."""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.bundled_model.corpus import Conversation, Turn
from training.bundled_model.message import SPLITS, UNSEEN_VALUES_LONG


@dataclass(frozen=True)
class Case:
    """A question to measure: the turns before the answer, and the answer itself."""

    task: str
    turns: tuple[Turn, ...]
    answer: str
    json_answer: bool


def cases(split_name: str, task: str, count: int, seed: int) -> list[Case]:
    """Measured questions of one split and task: first answers of fresh conversations."""
    split = SPLITS[split_name]
    found: list[Case] = []
    rng = random.Random(f"spillway-evaluation-{split_name}-{task}-{seed}")
    while len(found) < count:
        talk = Conversation(rng, split)
        if task == "smalltalk":
            talk.smalltalk()
        else:
            talk.task(task)
        end = next(index for index, turn in enumerate(talk.turns) if turn.role == "assistant")
        answer = talk.turns[end].content
        found.append(Case(task, tuple(talk.turns[:end]), answer, answer.startswith("{")))
    return found


def follow_up_cases(split_name: str, count: int, seed: int) -> list[Case]:
    """Extraction asked for in a second turn, about the message of the first."""
    rng = random.Random(f"spillway-follow-up-{split_name}-{seed}")
    found: list[Case] = []
    while len(found) < count:
        talk = Conversation(rng, SPLITS[split_name])
        message = talk.task("classify")
        talk.follow_up(message, "extract")
        found.append(Case("extract", tuple(talk.turns[:-1]), talk.turns[-1].content, True))
    return found


def long_cases(task: str, count: int, seed: int) -> list[Case]:
    """Questions on unseen values whose prompt has 700 to 2,500 characters."""
    drawn = cases(UNSEEN_VALUES_LONG.name, task, 8 * count, seed)
    return [case for case in drawn if 700 <= sum(len(turn.content) for turn in case.turns) <= 2500][:count]
