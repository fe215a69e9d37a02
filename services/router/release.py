"""What of an answer its caller gets before the whole of it: as far as its records are accepted."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from spillway import v1
from spillway.errors import StreamInterrupted

from .journal import Attempt

_LEAD: Final = re.compile(r"\s*(?:`{3,}[^\n`]*\n\s*)?")
"""What may stand before JSON of which records are told: white space and a fence."""
MAX_WAITING: Final = 16
"""Pieces that wait for a slow reader; beyond that the target is not heard."""


@dataclass(slots=True)
class _Held:
    """One choice: `text` has come and was not given; it begins `at` characters from the beginning of the answer."""

    text: str = ""
    at: int = 0
    marks: deque[tuple[int, int]] = field(default_factory=deque)
    """Where deltas end, and how many tokens each has."""
    given: list[str] = field(default_factory=list)
    tokens: int = 0
    """Those of deltas that were given as a whole."""


class Release:
    """Of one request. Hears an attempt's events and gives them out as far as they are accepted.

    The first that is given commits to the attempt. JSON is given without the fence and the white space before it.
    """

    def __init__(self) -> None:
        self.begun = False
        self._held: dict[int, _Held] = {}
        self._started = v1.Started()
        self._attempt: Attempt | None = None
        self._sign: Callable[[v1.Started], None] = lambda started: None
        self._waiting: deque[v1.GenerationEvent] = deque()
        self._moved = asyncio.Event()
        self._over = False

    def open(self, attempt: Attempt, sign: Callable[[v1.Started], None]) -> None:
        """An attempt begins, after which none may follow once something of it was given. `sign` makes Started ours."""
        self._attempt, self._sign = attempt, sign
        self._held.clear()

    def hear(self, event: v1.GenerationEvent) -> None:
        """Hold what has come. Raises StreamInterrupted where the target begins anew what cannot be taken back."""
        if event.HasField("started"):
            self._started = event.started
        elif event.route_changed.restarted:
            if self.begun:
                raise StreamInterrupted("the target began its answer anew")
            self._held.clear()
        elif event.delta.text:
            held = self._held.setdefault(event.delta.choice, _Held())
            held.text += event.delta.text
            held.marks.append((held.at + len(held.text), event.delta.tokens))

    def accept(self, choice: int, end: int) -> None:
        """Give the answer up to `end`, in characters from its beginning."""
        held = self._held[choice]
        piece, held.text, held.at = held.text[: end - held.at], held.text[end - held.at :], end
        if not held.given:
            piece = _LEAD.sub("", piece, count=1)
        held.given.append(piece)
        delta = v1.Delta(choice=choice, text=piece, tokens=0)
        while held.marks and held.marks[0][0] <= end:
            delta.tokens += held.marks.popleft()[1]
        held.tokens += delta.tokens
        if not self.begun:
            assert self._attempt is not None
            self.begun = self._attempt.committed = True
            self._sign(self._started)
            self._waiting.append(v1.GenerationEvent(started=self._started))
        self._waiting.append(v1.GenerationEvent(delta=delta))
        self._moved.set()

    def held_to(self, verdicts: Iterable[v1.Verdict]) -> list[v1.Verdict]:
        """Return `verdicts`, one per choice; JSON that does not begin with what was given is refused."""
        return [
            verdict if not verdict.accepted_json or verdict.accepted_json.startswith(self._given(choice)) else _OTHER
            for choice, verdict in enumerate(verdicts)
        ]

    def rest(self, events: Iterable[v1.GenerationEvent]) -> Iterator[v1.GenerationEvent]:
        """Yield of the whole answer, unfolded as `events`, what was not given."""
        for event in events:
            if event.HasField("started") and self.begun:
                continue
            if event.HasField("delta") and (given := self._given(event.delta.choice)):
                held, delta = self._held[event.delta.choice], event.delta
                delta.text = delta.text[len(given) if delta.text.startswith(given) else held.at :]
                if delta.HasField("tokens"):
                    delta.tokens -= held.tokens
            yield event

    def _given(self, choice: int) -> str:
        return "".join(self._held[choice].given) if choice in self._held else ""

    async def room(self) -> None:
        """Wait while the reader is too far behind."""
        while len(self._waiting) > MAX_WAITING:
            await self._move()

    async def events(self) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield what is given, until `end`."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
                self._moved.set()
            if self._over:
                return
            await self._move()

    def end(self) -> None:
        """Nothing more is given."""
        self._over = True
        self._moved.set()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def __repr__(self) -> str:
        return f"<Release {'begun' if self.begun else 'nothing given'}, {len(self._waiting)} wait>"


_OTHER: Final = v1.Verdict(
    decision=v1.VERDICT_DECISION_REJECT,
    findings=[
        v1.Finding(
            kind=v1.FINDING_KIND_JSON_MALFORMED,
            message="after some records the JSON is broken, or other JSON follows that would have been right",
        )
    ],
)
