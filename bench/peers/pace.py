"""The pace of the fake upstreams: an engine computes one step for all its answers at once.

What is asked of them stands in the prompt, which every gateway leaves as it is: "N words each I ms".
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final, Protocol

_ASKED: Final = re.compile(rb"(\d+) words each (\d+) ms")
WORDS: Final = (" word", " words")
"""Tokens, by turns: LiteLLM ends a stream that says the same a hundred times over."""


def text(words: int) -> str:
    """The whole of an answer of so many tokens."""
    return "".join(WORDS) * (words // 2) + WORDS[0] * (words % 2)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of so many tokens, one each `interval_ms` milliseconds after the first; 0: all at once."""

    words: int
    interval_ms: int

    @classmethod
    def asked(cls, request: bytes) -> Answer:
        """Read what a request asks for, in whatever wire format. Raises ValueError where it asks for nothing."""
        found = _ASKED.search(request)
        if found is None:
            raise ValueError("the prompt does not say how many words, and each how many ms")
        return cls(int(found[1]), int(found[2]))

    @property
    def prompt(self) -> str:
        return f"{self.words} words each {self.interval_ms} ms"


class Member(Protocol):
    """An answer that is under way."""

    def step(self) -> bool:
        """Have one token more; return whether there is another after it."""
        ...


class Pace:
    """Steps all who joined, each `interval_s` seconds. One that is late makes up for what it missed."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._members: dict[Member, None] = {}
        self._due = 0.0

    def join(self, member: Member) -> None:
        """Step `member` from now on, until it says that there is no more."""
        if not self._members:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._interval_s
            loop.call_at(self._due, self._step)
        self._members[member] = None

    def leave(self, member: Member) -> None:
        """Step it no more."""
        self._members.pop(member, None)

    def _step(self) -> None:
        for member in list(self._members):
            if not member.step():
                self._members.pop(member, None)
        if self._members:
            self._due += self._interval_s
            asyncio.get_running_loop().call_at(self._due, self._step)

    def __repr__(self) -> str:
        return f"<Pace {self._interval_s * 1e3:g} ms {len(self._members)}>"


class Paces:
    """A pace for every interval that is asked for."""

    def __init__(self) -> None:
        self._paces: dict[int, Pace] = {}

    def of(self, answer: Answer) -> Pace:
        """The pace that all answers with this interval share."""
        return self._paces.setdefault(answer.interval_ms, Pace(answer.interval_ms / 1000))

    def __repr__(self) -> str:
        return f"<Paces {list(self._paces.values())}>"
