"""Questions to the bundled model of which it is known what is right: easy ones, unseen templates, foreign prompts.

Easy: the templates it was trained on, with values that it has not seen. Unseen: templates that it has not seen either.
Foreign: questions of the routing data, as they are, or under an instruction to label them. None of those has a right
answer here: the model knows nothing of the world, and saying so leaves the question to somebody else.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.bundled_model.cases import Case
from training.bundled_model.corpus import UNKNOWN, Conversation, Turn
from training.bundled_model.evaluate import answer_schema
from training.bundled_model.message import HELD_OUT_TEMPLATES, UNSEEN_VALUES, Split

EASY, UNSEEN, FOREIGN = "easy", "unseen", "foreign"
SPLITS = {EASY: UNSEEN_VALUES, UNSEEN: HELD_OUT_TEMPLATES}
TASKS = {"classify": "classify", "extract": "extract", "summarize": "summarize", "smalltalk": "chat"}
"""As the generator and as the contract call them."""
LABELLED = 3
"""Of the foreign prompts, one in this many is to be labelled."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question; `wanted` is the right answer, None where no answer of this model is right.

    `template` names what it is made from: the matter of a customer's message, the reply to small talk, the first word
    or the subject of a foreign question.
    """

    kind: str
    task: str
    turns: tuple[Turn, ...]
    wanted: str | None
    template: str

    @property
    def schema(self) -> str:
        """The JSON schema of the answer; empty where it is no JSON."""
        if self.wanted is None or not self.wanted.startswith("{"):
            return ""
        return json.dumps(answer_schema(Case(self.task, self.turns, self.wanted, True)))

    @property
    def group(self) -> str:
        """What is alike and unknown to the model: the template. Easy questions, whose templates it knows, are alone."""
        return self.turns[-1].content if self.kind == EASY else self.template

    @property
    def tested(self) -> bool:
        """Whether it is in the half that nothing is fitted to. A group is in one half."""
        return bool(zlib.crc32(self.group.encode()) & 1)

    def right(self, answer: str) -> bool:
        """Whether `answer` is word for word what is wanted; JSON counts by value."""
        if self.wanted is None:
            return False
        try:
            return bool(json.loads(answer) == json.loads(self.wanted)) if self.schema else answer == self.wanted
        except ValueError:
            return False


def asked(questions: Path, each: int, foreign: int, seed: int) -> Iterator[Asked]:
    """Yield `each` questions of every task, easy and unseen, and `foreign` ones of the file `questions`."""
    for kind, split in SPLITS.items():
        for task, called in TASKS.items():
            chance = random.Random(f"spillway-confidence-{kind}-{task}-{seed}")
            for _ in range(each):
                turns, wanted, template = _one(chance, split, task)
                yield Asked(kind, called, turns, wanted, template)
    with questions.open() as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    chance = random.Random(f"spillway-confidence-foreign-{seed}")
    for index, row in enumerate(chance.sample(rows, foreign)):
        text, task = str(row["prompt"])[:2000], "chat"
        if index % LABELLED == 0:
            talk = Conversation(chance, UNSEEN_VALUES)
            text, task = talk.lay_out(talk.tell("classify"), text), "classify"
        yield Asked(FOREIGN, task, (Turn("user", text),), None, str(row["subject"]))


def _one(chance: random.Random, split: Split, task: str) -> tuple[tuple[Turn, ...], str | None, str]:
    """Return the turns before the only answer of a fresh conversation, the answer, and its template."""
    while True:
        talk = Conversation(chance, split)
        if task == "smalltalk":
            talk.smalltalk()
            question, reply = talk.turns[-2].content, talk.turns[-1].content
            template = question.split()[0].lower() if reply == UNKNOWN else reply
        else:
            template = talk.task(task).gist
        if sum(turn.role == "assistant" for turn in talk.turns) == 1:
            wanted = talk.turns[-1].content
            return tuple(talk.turns[:-1]), None if wanted == UNKNOWN else wanted, template
