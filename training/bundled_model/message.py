"""Customer messages, composed from clauses and filled with values, together with the facts they state."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from training.bundled_model import words
from training.bundled_model.clauses import LABELS, Matter, expand, matters, pools, requests

_SLOT = re.compile(r"<([A-Z])>")
_LOOSE = re.compile(r" +([.,?!])")
_GIST = re.compile(r"\(([^()|]*)\|([^()]*)\)")


@dataclass(frozen=True)
class Split:
    """Which clauses and values a text may use, and whether it may be damaged by typing errors."""

    name: str
    held_out_clauses: bool
    unseen_values: bool
    noise: float
    long: float = 0.05
    """Share of messages that ramble on."""


TRAINING = Split("training", held_out_clauses=False, unseen_values=False, noise=0.25)
UNSEEN_VALUES = Split("unseen_values", held_out_clauses=False, unseen_values=True, noise=0.0)
HELD_OUT_TEMPLATES = Split("held_out_templates", held_out_clauses=True, unseen_values=True, noise=0.0)
UNSEEN_VALUES_LONG = Split("unseen_values_long", held_out_clauses=False, unseen_values=True, noise=0.0, long=0.6)
SPLITS = {split.name: split for split in (TRAINING, UNSEEN_VALUES, HELD_OUT_TEMPLATES, UNSEEN_VALUES_LONG)}


@dataclass(frozen=True)
class Message:
    """A customer's message and what is true of it; ``None`` where it does not say."""

    text: str
    label: str
    gist: str
    name: str | None
    product: str | None
    order_id: str | None

    def fields(self) -> dict[str, str | None]:
        """The extraction record, in its usual order."""
        return {"name": self.name, "product": self.product, "order_id": self.order_id, "issue": self.label}

    def summary(self) -> str:
        """One line that says who writes about what."""
        product = self.product
        gist = _GIST.sub(lambda match: match.group(2) if product else match.group(1), self.gist)
        gist = gist.replace("<P>", product or "").replace("<S>", product or "")
        order = f" (order {self.order_id})" if self.order_id else ""
        return f"{self.name or 'The customer'} {gist}{order}."


class Composer:
    """Writes one message; keeps the generator, the split and the facts at hand."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        noisy = rng.random() < split.noise
        self.dropping = noisy and rng.random() < 0.4
        self.typing = noisy and rng.random() < 0.4
        self.lower = noisy and rng.random() < 0.4
        self.frames = pools("frames")
        label = rng.choice(LABELS)
        self.matter: Matter = rng.choice(matters(label))
        unseen = split.unseen_values
        self.name = words.person(rng, unseen) if rng.random() < 0.65 else None
        self.order = words.order_id(rng) if rng.random() < 0.62 else None
        wants_product = rng.random() < (0.75 if self.matter.slot else 0.12)
        service = self.matter.slot == "S"
        make = words.service if service else words.product
        self.product = make(rng, unseen) if wants_product else None
        self.generic = rng.choice(words.GENERIC_SERVICES if service else words.GENERIC_GOODS)
        self.product_said = False

    def __repr__(self) -> str:
        return f"<Composer {self.matter.label} {self.split.name}>"

    def frame(self, pool: str) -> str:
        """A filled clause of a general pool."""
        return self.fill(self.frames[pool].pick(self.rng, self.split.held_out_clauses))

    def fill(self, pattern: str) -> str:
        """Choose alternatives, perhaps damage the wording, and put values in the slots."""
        text = expand(self.rng, pattern)
        if self.dropping:
            text = _drop_words(self.rng, text)
        if self.typing:
            text = _misspell(self.rng, text)
        filled = _SLOT.sub(lambda match: self._value(match.group(1)), text)
        return _LOOSE.sub(r"\1", filled).replace("  ", " ")

    def _value(self, slot: str) -> str:
        rng = self.rng
        if slot in "PS":
            if self.product is None:
                return self.generic
            self.product_said = True
            return self.product
        if slot == "X":
            return self.fill(self.matter.topics.pick(rng, self.split.held_out_clauses))
        values = {
            "N": self.name or "",
            "O": self.order or "",
            "A": words.amount(rng),
            "D": words.day(rng),
            "W": rng.choice(words.WEEKDAYS),
            "T": rng.choice(words.TIMES),
            "C": rng.choice(words.CITIES),
            "K": rng.choice((str(rng.randint(5, 999)), f"{rng.choice('EFH')}{rng.randint(1, 99)}")),
            "Y": str(rng.randint(2, 20)),
            "F": f"0{rng.randint(100, 999)} {rng.randint(100000, 9999999)}",
            "E": f"{words.pseudo_word(rng, self.split.unseen_values)}@{rng.choice(('example.com', 'example.org'))}",
        }
        return values[slot]

    def problem(self) -> str:
        """The clause that carries the label."""
        return self.fill(self.matter.problems.pick(self.rng, self.split.held_out_clauses))

    def request(self) -> str:
        """What the customer asks for."""
        return self.fill(requests(self.matter.label).pick(self.rng, self.split.held_out_clauses))

    def message(self) -> Message:
        """The whole message and its facts."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.09:
            text = self._form()
        elif chance < 0.14:
            text = self._keywords()
        else:
            text = self._letter(short=chance < min(0.36, 1 - self.split.long), long=chance > 1 - self.split.long)
        name, product, order = self.name, self.product, self.order
        if self.lower:
            text = text.lower()
            name, product, order = (value.lower() if value else None for value in (name, product, order))
        return Message(text, self.matter.label, self.matter.gist, name, product, order)

    def _core(self, short: bool) -> list[str]:
        rng = self.rng
        if rng.random() < 0.15:
            core = [self.frame("about")]
            if rng.random() < 0.3:
                core.append(self.problem())
        else:
            core = [self.problem()]
            if not short and rng.random() < 0.12:
                core.append(self.problem())
        if not short and rng.random() < 0.4:
            core.append(self.request())
        if len(core) > 1 and rng.random() < 0.12:
            core.reverse()
        return core

    def _letter(self, short: bool, long: bool) -> str:
        rng = self.rng
        core = self._core(short)
        before: list[str] = []
        after: list[str] = []

        def put(text: str) -> None:
            (before if rng.random() < 0.4 else after).append(text)

        if self.order:
            chance = rng.random()
            if chance < 0.33:
                position = rng.randrange(len(core))
                stem = core[position].rstrip()
                end = stem[-1] if stem[-1] in ".?!" else "."
                core[position] = stem.rstrip(".?!") + self.frame("ordertail") + end
            elif chance < 0.45:
                core[0] = f"{self.frame('orderhead')} {core[0]}"
            else:
                put(self.frame("order"))
        if self.product and not self.product_said:
            put(self.frame("goods"))
        for _ in range(0 if short else rng.choice((0, 0, 0, 1, 1, 2, 3))):
            put(self.frame("detail"))
        for _ in range(rng.randint(3, 18) if long else 0):
            put(self.frame(rng.choice(("filler", "filler", "detail"))))
        rng.shuffle(before)
        rng.shuffle(after)
        signed = ""
        if self.name:
            if rng.random() < 0.5:
                signed = self.frame("signature")
            elif rng.random() < 0.7:
                before.insert(0, self.frame("name"))
            else:
                after.append(self.frame("name"))
        opener = self.frame("opener") if rng.random() < (0.15 if short else 0.45) else ""
        closer = self.frame("closer") if rng.random() < (0.1 if short else 0.3) else ""
        gap = rng.choice((" ", " ", " ", " ", "\n", "\n\n" if long else " "))
        body = [part for part in [*before, *core, *after, closer] if part]
        text = gap.join(body)
        if opener:
            text = opener + rng.choice((" ", " ", "\n", "\n\n")) + text
        if signed:
            text += rng.choice((" ", "\n", "\n\n")) + signed
        if rng.random() < 0.06:
            text = text.rstrip(".")
        return text

    def _form(self) -> str:
        rng = self.rng
        topic = self.fill(self.matter.topics.pick(rng, self.split.held_out_clauses))
        rows: list[str] = []
        if self.name:
            rows.append(f"{rng.choice(('Name', 'Customer', 'From', 'Customer name'))}: {self.name}")
        if self.order:
            rows.append(f"{rng.choice(('Order', 'Order ID', 'Order number', 'Order no.', 'Reference'))}: {self.order}")
        if rng.random() < 0.3:
            rows.append(f"City: {rng.choice(words.CITIES)}")
        tell = self.problem()
        if self.product and (not self.product_said or rng.random() < 0.4):
            rows.append(f"{rng.choice(('Product', 'Item', 'Article'))}: {self.product}")
        rng.shuffle(rows)
        if rng.random() < 0.5:
            rows.insert(0, f"{rng.choice(('Subject', 'Topic', 'Re'))}: {topic}")
        rows.append(rng.choice(("Message: ", "Text: ", "", "")) + tell)
        return rng.choice(("\n", "\n", "\n", "; ")).join(rows)

    def _keywords(self) -> str:
        rng = self.rng
        parts = [self.fill(self.matter.topics.pick(rng, self.split.held_out_clauses))]
        if self.product:
            parts.append(self.product)
        if self.order:
            parts.append(f"{rng.choice(('order', 'order number', 'no.', 'order #'))} {self.order}".replace("# ", "#"))
        if self.name:
            parts.append(self.name)
        if rng.random() < 0.3:
            rng.shuffle(parts)
        return ", ".join(parts)


def _drop_words(rng: random.Random, text: str) -> str:
    pieces = text.split(" ")
    kept = [piece for piece in pieces if "<" in piece or len(pieces) < 3 or rng.random() > 0.12]
    return " ".join(kept) if len(kept) > 1 else text


def _misspell(rng: random.Random, text: str) -> str:
    pieces = text.split(" ")
    for index, piece in enumerate(pieces):
        if len(piece) > 3 and piece.isalpha() and rng.random() < 0.12:
            at = rng.randrange(1, len(piece) - 1)
            kind = rng.randrange(3)
            middle = (piece[at + 1] + piece[at], piece[at] * 2 + piece[at + 1], piece[at + 1])[kind]
            pieces[index] = piece[:at] + middle + piece[at + 2 :]
    return " ".join(pieces)


def compose(rng: random.Random, split: Split) -> Message:
    """One message of a split."""
    return Composer(rng, split).message()
