"""Conversations to learn from and to be measured on: classification, extraction, summaries, small talk and copying.

Everything is drawn from one seeded generator, so a seed gives the same corpus on every machine.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.bundled_model import words
from training.bundled_model.clauses import LABELS, Pool, expand, pools
from training.bundled_model.message import Message, Split, compose

FIELDS = ("name", "product", "order_id", "issue")
TASKS = ("classify", "extract", "summarize", "smalltalk")

UNKNOWN = (
    "I do not know. I am a small support model: I can label customer messages, extract their fields and summarize them."
)

_ALIASES = {
    "name": ("name", "name", "the name", "customer name", "the customer's name", "the customer name"),
    "product": ("product", "product", "the product", "product name", "the product name"),
    "order_id": ("order_id", "order_id", "order id", "the order id", "order number", "the order number", "order ID"),
    "issue": ("issue", "issue", "the issue", "the issue label", "issue type"),
}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; ``task`` is set on answers that a model is measured on."""

    role: str
    content: str
    task: str = ""


def record(message: Message, keys: tuple[str, ...]) -> str:
    """The JSON that extraction answers with."""
    fields = message.fields()
    return json.dumps({key: fields[key] for key in keys}, ensure_ascii=False)


def schema(rng: random.Random, keys: tuple[str, ...]) -> str:
    """A JSON schema of the wanted keys, as a caller may paste it."""
    properties: dict[str, object] = {}
    detailed = rng.random() < 0.7
    for key in keys:
        if key == "issue" and rng.random() < 0.5:
            properties[key] = {"type": "string", "enum": list(LABELS)}
        else:
            nullable = detailed and key != "issue"
            properties[key] = {"type": ["string", "null"]} if nullable else {"type": "string"}
    whole: dict[str, object] = {"type": "object", "properties": properties}
    if rng.random() < 0.7:
        whole["required"] = list(keys)
    if rng.random() < 0.3:
        whole["additionalProperties"] = False
    return json.dumps(whole, separators=(",", ":") if rng.random() < 0.4 else None)


class Conversation:
    """Builds the turns of one conversation."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self.turns: list[Turn] = []
        self.instructions = pools("instructions")

    def __repr__(self) -> str:
        return f"<Conversation {len(self.turns)} turns {self.split.name}>"

    def say(self, pool: Pool) -> str:
        """An expanded pattern of a pool, of the part this split may use."""
        return expand(self.rng, pool.pick(self.rng, self.split.held_out_clauses))

    def tell(self, name: str) -> str:
        """An expanded instruction."""
        return self.say(self.instructions[name])

    # instructions -----------------------------------------------------------------------------------------------

    def classify(self) -> tuple[str, bool]:
        """An instruction to classify, and whether it asks for JSON."""
        rng = self.rng
        parts = [self.tell("classify")]
        as_json = rng.random() < 0.35
        if rng.random() < 0.4:
            listed = list(LABELS)
            if rng.random() < 0.3:
                rng.shuffle(listed)
            joiner = rng.choice((", ", ", ", ", ", " / ", " | ", "; "))
            parts.append(self.tell("labels").replace("<L>", joiner.join(listed)))
        if as_json:
            parts.append(self.tell("label_json"))
        elif rng.random() < 0.25:
            parts.append(self.tell("classify_tail"))
        return self._join(parts), as_json

    def extract(self) -> tuple[str, tuple[str, ...]]:
        """An instruction to extract, and the keys it asks for in order."""
        rng = self.rng
        keys: tuple[str, ...] = FIELDS
        if rng.random() < 0.45:
            chosen = rng.sample(FIELDS, rng.choice((1, 2, 2, 3, 3, 4)))
            keys = tuple(chosen) if rng.random() < 0.5 else tuple(key for key in FIELDS if key in chosen)
        first = self.tell("extract")
        parts = [self._name_keys(first, keys)]
        if (keys != FIELDS and "<F>" not in first) or rng.random() < 0.35:
            parts.append(self._name_keys(self.tell("keys"), keys))
        if rng.random() < 0.3:
            parts.append(self.tell("extract_tail"))
        return self._join(parts), keys

    def _name_keys(self, text: str, keys: tuple[str, ...]) -> str:
        rng = self.rng
        plain = rng.random() < 0.5
        named = [key if plain else rng.choice(_ALIASES[key]) for key in keys]
        last = rng.choice((" and ", " and ", ", "))
        listed = named[0] if len(named) == 1 else ", ".join(named[:-1]) + last + named[-1]
        text = text.replace("<F>", listed)
        if "<SCHEMA>" in text:
            text = text.replace("<SCHEMA>", schema(rng, keys))
        hole = rng.choice(("...", "", "?"))
        return text.replace("<SKELETON>", json.dumps(dict.fromkeys(keys, hole)))

    def _join(self, parts: list[str]) -> str:
        text = ""
        for part in parts:
            if text:
                gap = "" if text[-1] in ".?!:" or part.startswith("(") else "."
                text += gap + self.rng.choice((" ", " ", " ", "\n")) + part
            else:
                text = part
        if self.rng.random() < 0.15:
            text = text[0].lower() + text[1:]
        return text

    def lay_out(self, instruction: str, message: str) -> str:
        """Instruction and message as one user text."""
        layout = self.tell("layout")
        if instruction[-1] in ".?!:,}":
            layout = layout.replace("<I>: ", "<I> ").replace("<I>:", "<I>").replace("<I> - ", "<I> ")
        if "<M>\n\n<I>" in layout and instruction[-1] not in ".?!}" and self.rng.random() < 0.5:
            instruction += "."
        return layout.replace("<I>", instruction).replace("<M>", message)

    # conversations ----------------------------------------------------------------------------------------------

    def _system(self, chance: float) -> None:
        if self.rng.random() < chance:
            text = self.tell("system")
            if self.rng.random() < 0.25:
                text += " " + self.tell("system")
            self.turns.append(Turn("system", text))

    def ask(self, content: str) -> None:
        """A user's turn."""
        self.turns.append(Turn("user", content))

    def answer(self, task: str, content: str) -> None:
        """The assistant's turn."""
        self.turns.append(Turn("assistant", content, task))

    def _reply(self, task: str, message: Message, detail: tuple[str, ...] | bool) -> None:
        if task == "classify":
            self.answer(task, json.dumps({"label": message.label}) if detail else message.label)
        elif task == "extract":
            self.answer(task, record(message, detail if isinstance(detail, tuple) else FIELDS))
        else:
            self.answer(task, message.summary())

    def _instruct(self, task: str) -> tuple[str, tuple[str, ...] | bool]:
        if task == "classify":
            return self.classify()
        if task == "extract":
            return self.extract()
        return self._join([self.tell("summarize")]), False

    def task(self, task: str) -> Message:
        """Pose one task on one new message and answer it; returns the message."""
        rng = self.rng
        message = compose(rng, self.split)
        instruction, detail = self._instruct(task)
        if not self.turns and rng.random() < 0.16:
            start = self.tell("system") + " " if rng.random() < 0.4 else ""
            self.turns.append(Turn("system", start + instruction))
            self.ask(message.text)
            self._reply(task, message, detail)
            while rng.random() < 0.35:
                message = compose(rng, self.split)
                self.ask(message.text)
                self._reply(task, message, detail)
        else:
            if not self.turns:
                self._system(0.3)
            self.ask(self.lay_out(instruction, message.text))
            self._reply(task, message, detail)
            if rng.random() < 0.12:
                message = compose(rng, self.split)
                self.ask(self.tell("another").replace("<M>", message.text))
                self._reply(task, message, detail)
        return message

    def follow_up(self, message: Message, task: str) -> None:
        """Ask another task about a message that is already in the conversation."""
        rng = self.rng
        pattern = self.tell(f"followup_{task}")
        detail: tuple[str, ...] | bool = False
        if task == "extract":
            detail = FIELDS
            if "<F>" in pattern and rng.random() < 0.6:
                detail = tuple(rng.sample(FIELDS, rng.choice((1, 2, 3))))
            pattern = self._name_keys(pattern, detail)
        elif task == "classify" and rng.random() < 0.2:
            pattern = f"{pattern} {self.tell('label_json')}"
            detail = True
        self.ask(pattern)
        self._reply(task, message, detail)

    def bare(self) -> None:
        """A customer message without any instruction: name the label and offer the tasks."""
        message = compose(self.rng, self.split)
        self._system(0.3)
        self.ask(message.text)
        self.answer(
            "bare", f"This is about {message.label}. I can extract its fields or summarize it: tell me which you want."
        )

    def smalltalk(self) -> None:
        """One exchange of small talk, or a question that this model cannot answer."""
        rng = self.rng
        talk = pools("smalltalk")
        if rng.random() < 0.5:
            reply = rng.choice(list(talk))
            text = self.say(talk[reply])
        else:
            reply = UNKNOWN
            text = self._foreign()
        if rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        ends = text.endswith((".", "!", "?", ":"))
        if not ends and rng.random() < 0.6:
            asking = text.lower().startswith(_ASKING)
            text += "?" if asking else rng.choice((".", "!", "."))
        self._system(0.0 if self.turns else 0.25)
        self.ask(text)
        self.answer("smalltalk", reply)

    def _foreign(self) -> str:
        rng = self.rng
        foreign = pools("foreign")
        text = self.say(foreign["question"])
        while "<" in text:
            before = text
            text = text.replace("<G>", str(rng.randint(2, 999)), 1)
            text = text.replace("<C>", rng.choice(words.CITIES), 1)
            text = text.replace("<X>", self.say(foreign["topic"]), 1)
            if text == before:
                break
        return text

    def copying(self) -> None:
        """Repeat a text: the skill that extraction rests on, taught apart at the start of training."""
        rng = self.rng
        unseen = self.split.unseen_values

        def piece() -> str:
            kind = rng.randrange(6)
            if kind == 0:
                return words.order_id(rng)
            if kind == 1:
                return words.person(rng, unseen)
            if kind == 2:
                return words.product(rng, unseen)
            if kind == 3:
                return words.pseudo_word(rng, unseen)
            if kind == 4:
                return words.brand(rng, unseen)
            return rng.choice(words.NOUNS)

        if rng.random() < 0.5:
            text = " ".join(piece() for _ in range(rng.randint(1, 8)))
            style = rng.randrange(4)
            ask = rng.choice(("Repeat: ", "Repeat after me: ", "Say ", "Copy this text: ", "Echo: ", "Write: "))
            if style == 0:
                self.ask(ask + text)
                self.answer("copy", text)
            elif style == 1:
                self.ask(f'{ask}"{text}"')
                self.answer("copy", text)
            else:
                self.ask(rng.choice(("As JSON: ", "Put this in JSON: ")) + text)
                self.answer("copy", json.dumps({"text": text}, ensure_ascii=False))
            return
        keys = rng.sample(FIELDS[:3], rng.choice((1, 2, 2, 3)))
        values = {
            "name": words.person(rng, unseen),
            "product": words.product(rng, unseen),
            "order_id": words.order_id(rng),
        }
        link = rng.choice((": ", " is ", " = ", " - ", " "))
        told = list(keys)
        rng.shuffle(told)
        text = rng.choice((", ", ". ", "\n", "; ")).join(f"{key.replace('_', ' ')}{link}{values[key]}" for key in told)
        self.ask(f"Write {', '.join(keys)} as JSON: {text}")
        self.answer("copy", json.dumps({key: values[key] for key in keys}, ensure_ascii=False))


_ASKING = ("what", "who", "how", "why", "when", "where", "which", "is ", "are ", "can ", "could ", "do ", "does ",
           "should", "will", "did ", "were ", "was ")  # fmt: skip

_OTHERS = {
    "classify": ("extract", "summarize"),
    "extract": ("classify", "summarize"),
    "summarize": ("classify", "extract"),
}


def conversation(rng: random.Random, split: Split, copy_share: float) -> list[Turn]:
    """One conversation to train on; ``copy_share`` of them are copying exercises."""
    talk = Conversation(rng, split)
    if rng.random() < copy_share:
        talk.copying()
        return talk.turns
    chance = rng.random()
    if chance < 0.13:
        talk.smalltalk()
        while rng.random() < 0.3:
            talk.smalltalk()
        return talk.turns
    if chance < 0.18:
        talk.bare()
        return talk.turns
    while True:
        task = rng.choices(("classify", "extract", "summarize"), (0.36, 0.46, 0.18))[0]
        message = talk.task(task)
        others = list(_OTHERS[task])
        rng.shuffle(others)
        for other in others:
            if rng.random() < 0.38:
                talk.follow_up(message, other)
        if rng.random() < 0.1:
            talk.smalltalk()
        if rng.random() > 0.1:
            return talk.turns


def training_stream(seed: int) -> Iterator[random.Random]:
    """Independent generators, one per example, so that examples do not depend on who draws them."""
    index = 0
    while True:
        yield random.Random(f"spillway-{seed}-{index}")
        index += 1
