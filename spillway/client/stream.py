"""An answer on its way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from spillway import v1
from spillway.client.answer import Answer
from spillway.client.records import Records
from spillway.errors import OutputInvalid, RequestInvalid, StreamInterrupted
from spillway.generation import Folder
from spillway.records import array_of


class AnswerStream:
    """Iterate it for the text of the first choice as it comes, `records()` for its records as values, or `events()` for
    everything; once, either way.

    It ends only after an answer that is whole: a gap in the sequence, or an end without Finished and Usage, raises
    StreamInterrupted. `text` is the text so far. Where the caller accepts restarts and another target began the answer
    anew, `text` begins anew too and `restarts` counts it; only `events()` shows where.
    """

    def __init__(self, responses: AsyncIterable[v1.StreamGenerateResponse], schema: str = "") -> None:
        self._responses = responses
        self._schema = schema
        self._folder = Folder()
        self.restarts = 0

    async def events(self) -> AsyncIterator[v1.GenerationEvent]:
        """Every event, checked to be one whole stream."""
        async for response in self._responses:
            event = response.event
            if self._folder.response.HasField("usage"):
                raise StreamInterrupted("the stream went on after Usage")
            self._folder.add(event)
            if event.WhichOneof("event") == "route_changed" and event.route_changed.restarted:
                self.restarts += 1
            yield event
        self._folder.whole()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if event.WhichOneof("event") == "delta" and event.delta.choice == 0 and event.delta.text:
                yield event.delta.text

    async def records(self) -> AsyncIterator[Any]:
        """The items of the array that `json_schema` is about, each as soon as it is here.

        With the option `records` that is when it is accepted; without it, when the whole answer is. Raises
        RequestInvalid where the schema has no such array (`spillway.records`), OutputInvalid where the answer is not
        such JSON.
        """
        try:
            place = array_of(json.loads(self._schema)) if self._schema else None
        except (ValueError, RecursionError):
            raise RequestInvalid.at("json_schema", "is no JSON that can be read") from None
        if place is None:
            raise RequestInvalid.at("json_schema", "has no array whose items are records")
        reader = Records(place)
        async for text in self:
            for record in reader.feed(text):
                yield record
        if not reader.whole:
            raise OutputInvalid("the answer is not JSON with an array of records")

    @property
    def so_far(self) -> Answer:
        """What has come, as an answer that may not be whole yet."""
        return Answer(self._folder.response)

    @property
    def text(self) -> str:
        return self.so_far.text

    @property
    def started(self) -> v1.Started | None:
        """Who answers; None until the first token is there."""
        response = self._folder.response
        return response.started if response.HasField("started") else None

    @property
    def target(self) -> str:
        return self.so_far.target

    @property
    def finish(self) -> str:
        """Why the first choice ended; empty until it has."""
        return self.so_far.finish

    @property
    def usage(self) -> v1.Usage:
        """Empty until the answer is whole."""
        return self._folder.response.usage

    @property
    def answer(self) -> Answer:
        """The whole answer; raises StreamInterrupted until it is whole."""
        return Answer(self._folder.whole())

    def __repr__(self) -> str:
        return f"<AnswerStream {self.target or 'not started'} {self.finish or 'running'}>"
