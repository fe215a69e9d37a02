"""Answers to content that left redacted, as their caller gets them: with what the placeholders stand for put back.

Tokens are the target's own: their texts stay as they came, in log probabilities too, and their ids are left out, as
nothing can go on with them after a text in which they do not stand.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from spillway import v1
from spillway.errors import OutputInvalid
from spillway.placeholders import Placeholder, Restorer, TooLong

from .target import Target
from .work import Work

MOST = 4 * 2**20
"""Characters of one text of an answer with everything put back."""


Events = AsyncGenerator[v1.GenerationEvent]


def restoring(work: Work, target: Target, sent: v1.GenerationSpec) -> Restoring:
    """What restores the answer of `target` to what it was `sent`; one that got everything as it is needs nothing."""
    return Restoring(sent, work.vault.placeholders if work.plan.redacts(target) else ())


def restored(events: Events, work: Work, target: Target, sent: v1.GenerationSpec) -> Events:
    """Return `events` of `target` with everything put back: themselves, where it got everything as it is."""
    return restoring(work, target, sent).events(events) if work.plan.redacts(target) else events


class Restoring:
    """Puts back what `placeholders` stand for into one answer to `spec`, as its target was sent it."""

    def __init__(self, spec: v1.GenerationSpec, placeholders: Sequence[Placeholder]) -> None:
        self._json = spec.constraint.WhichOneof("constraint") in ("json_schema", "json_object")
        self._placeholders = placeholders
        self._begun: dict[tuple[int, str, int], Restorer] = {}

    def whole(self, response: v1.GenerateResponse) -> v1.GenerateResponse:
        """Return `response`, restored. Raises OutputInvalid where it grows beyond all bounds."""
        with self._bounded():
            self._whole(response)
        return response

    async def events(self, events: Events) -> Events:
        """Yield `events` restored, numbered anew. Raises OutputInvalid where a text grows beyond all bounds."""
        sequence = 0
        async with aclosing(events):
            async for event in events:
                with self._bounded():
                    before = self._event(event)
                for rest in before:
                    yield v1.GenerationEvent(sequence=sequence, delta=rest)
                    sequence += 1
                event.sequence = sequence
                sequence += 1
                yield event

    def _whole(self, response: v1.GenerateResponse) -> None:
        if not self._placeholders:
            return
        for number, choice in enumerate(response.choices):
            choice.content.choice = number
            self._put_back(choice.content)
            for rest in self._ends(number):
                choice.content.text += rest.text
                choice.content.reasoning += rest.reasoning
                for piece in rest.tool_calls:
                    call = next(call for call in choice.content.tool_calls if call.index == piece.index)
                    call.arguments += piece.arguments
            self._stop(choice.finish)

    def _event(self, event: v1.GenerationEvent) -> list[v1.Delta]:
        """Restore `event`, and return what was held back and comes before it."""
        if not self._placeholders:
            return []
        match event.WhichOneof("event"):
            case "delta":
                self._put_back(event.delta)
            case "route_changed" if event.route_changed.restarted:
                self._begun.clear()
            case "finished":
                held = [rest for finish in event.finished.choices for rest in self._ends(finish.choice)]
                for finish in event.finished.choices:
                    self._stop(finish)
                return held
        return []

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        try:
            yield
        except TooLong as error:
            raise OutputInvalid(f"the answer was not restored: {error}") from None

    def _put_back(self, delta: v1.Delta) -> None:
        del delta.token_ids[:]
        if delta.text:
            delta.text = self._feed((delta.choice, "text", 0), delta.text)
        if delta.reasoning:
            delta.reasoning = self._feed((delta.choice, "reasoning", 0), delta.reasoning)
        for call in delta.tool_calls:
            if call.arguments:
                call.arguments = self._feed((delta.choice, "arguments", call.index), call.arguments)

    def _feed(self, place: tuple[int, str, int], text: str) -> str:
        restorer = self._begun.get(place)
        if restorer is None:
            json = place[1] == "arguments" or (place[1] == "text" and self._json)
            restorer = self._begun[place] = Restorer(self._placeholders, json=json, most=MOST)
        return restorer.feed(text)

    def _ends(self, choice: int) -> list[v1.Delta]:
        """What was held back of a choice that has ended."""
        found = []
        for number, field, index in [place for place in self._begun if place[0] == choice]:
            rest = self._begun.pop((number, field, index)).end()
            if not rest:
                continue
            delta = v1.Delta(choice=choice, tokens=0)
            if field == "text":
                delta.text = rest
            elif field == "reasoning":
                delta.reasoning = rest
            else:
                delta.tool_calls.add(index=index, arguments=rest)
            found.append(delta)
        return found

    def _stop(self, finish: v1.ChoiceFinish) -> None:
        if finish.stop_string:
            restorer = Restorer(self._placeholders, most=MOST)
            finish.stop_string = restorer.feed(finish.stop_string) + restorer.end()

    def __repr__(self) -> str:
        return f"<Restoring {len(self._placeholders)} placeholders, {len(self._begun)} texts under way>"
