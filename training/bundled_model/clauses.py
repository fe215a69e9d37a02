"""Clause patterns, read from text files and split into a training part and a held-out part.

A pattern is a line with alternatives in braces and slots in angle brackets: ``I {was|got} charged for the <P>.``
All expansions of one pattern fall on the same side of the split.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HELD_OUT_EVERY = 6
"""Of the patterns of a pool, one in this many (at least one, if there are three or more) is kept out of training."""

LABELS = ("billing", "shipping", "returns", "technical", "account", "cancellation", "feedback", "sales")

_FOLDER = Path(__file__).parent / "clauses"
_CHOICE = re.compile(r'\{([^{}"]*\|[^{}"]*)\}')


@dataclass(frozen=True)
class Pool:
    """Patterns that may stand for one another; the two parts share no pattern."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    def pick(self, rng: random.Random, held_out: bool) -> str:
        """One pattern of the wanted part, its alternatives still open."""
        return rng.choice(self.held_out if held_out else self.training)


@dataclass(frozen=True)
class Matter:
    """One thing that customers write about: what a summary calls it, and the ways to say it."""

    label: str
    gist: str
    problems: Pool
    topics: Pool

    @property
    def slot(self) -> str:
        """The product slot of this matter: P for goods, S for services, empty when it names no product."""
        return "S" if "<S>" in self.gist else "P" if "<P>" in self.gist else ""


def split_pool(patterns: list[str]) -> Pool:
    """Divide patterns by a checksum of their text, so that nobody chooses which ones are held out."""
    wanted = max(1, len(patterns) // HELD_OUT_EVERY) if len(patterns) >= 3 else 0
    ranked = sorted(patterns, key=lambda pattern: zlib.crc32(pattern.encode()))
    held = set(ranked[:wanted])
    training = tuple(pattern for pattern in patterns if pattern not in held)
    return Pool(training, tuple(ranked[:wanted]) or training)


def expand(rng: random.Random, pattern: str) -> str:
    """Choose among the alternatives of a pattern; slots stay."""
    while (match := _CHOICE.search(pattern)) is not None:
        chosen = rng.choice(match.group(1).split("|"))
        pattern = pattern[: match.start()] + chosen + pattern[match.end() :]
    return pattern


def _sections(name: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            found.append((line[3:], []))
        elif line.strip():
            found[-1][1].append(line.replace("\\n", "\n"))
    return found


@cache
def pools(name: str) -> dict[str, Pool]:
    """The pools of a file, by the heading above each."""
    return {heading: split_pool(lines) for heading, lines in _sections(name)}


@cache
def matters(label: str) -> tuple[Matter, ...]:
    """Everything that customers write about under one label."""
    found: list[Matter] = []
    for heading, lines in _sections(label):
        if heading == "requests":
            continue
        problems = [line for line in lines if line[:3] not in ("t: ", "r: ")]
        topics = [line[3:] for line in lines if line.startswith("t: ")]
        found.append(Matter(label, heading, split_pool(problems), split_pool(topics)))
    return tuple(found)


@cache
def requests(label: str) -> Pool:
    """What a customer asks for under one label, on top of the problem."""
    return split_pool([line[3:] for _, lines in _sections(label) for line in lines if line.startswith("r: ")])
