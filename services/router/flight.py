"""A flight: one answer on its way to everybody who asked for the same, in a task of its own.

It lives as long as anyone waits, whoever began it: each waiter has its own deadline and may leave, and the last one to
leave cancels what is under way. Events come to all as they are made; who joins late gets the earlier ones first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import Cancelled, DeadlineExceeded

LIKE = 1.5
"""Requests fly together if their times differ by at most this factor. One with much less would wait out a share of the
deadline that is not its own; one with much more would end with a deadline that is not its own."""


class Flight:
    """Carries the events of `make`. `landed` runs with the flight once it is whole and its waiters have it."""

    def __init__(
        self,
        make: Callable[[Flight], AsyncGenerator[v1.GenerationEvent]],
        landed: Callable[[Flight], Awaitable[None]],
        timeout_s: float,
    ) -> None:
        self.timeout_s = timeout_s
        self.age_s: float | None = None
        """Of the answer, where it was not made but found."""
        self.events: list[v1.GenerationEvent] = []
        self.over = False
        self._error: BaseException | None = None
        self.waiting = 0
        self._left = False
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._fly(make, landed), name="flight")

    def takes(self, left_s: float) -> bool:
        """Whether a request with `left_s` seconds left may come along."""
        alike = self.timeout_s <= left_s * LIKE and left_s <= self.timeout_s * LIKE
        return alike and not self._left and self._error is None

    async def wait(self, deadline: Deadline) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield every event; others hold it too. Raises what ended the flight, or DeadlineExceeded at `deadline`."""
        self.waiting += 1
        try:
            at = 0
            while True:
                while at < len(self.events):
                    yield self.events[at]
                    at += 1
                if self.over:
                    break
                try:
                    async with asyncio.timeout(deadline.left()):
                        await self._news.wait()
                except TimeoutError:
                    raise DeadlineExceeded("the deadline passed before the answer was whole") from None
            if self._error is not None:
                raise self._error.with_traceback(None)  # or it would grow with every waiter
        finally:
            self.waiting -= 1
            if not self.waiting and not self.over:
                self._left = True
                self.task.cancel()

    async def _fly(
        self,
        make: Callable[[Flight], AsyncGenerator[v1.GenerationEvent]],
        landed: Callable[[Flight], Awaitable[None]],
    ) -> None:
        try:
            async with aclosing(make(self)) as events:
                async for event in events:
                    self.events.append(event)
                    self._tell()
        except Exception as error:
            self._error = error
            return
        except BaseException:
            self._error = Cancelled("the router ended the call")
            raise
        finally:
            self.over = True
            self._tell()
        await landed(self)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        state = "failed" if self._error is not None else "over" if self.over else "under way"
        return f"<Flight {state} {len(self.events)} events {self.waiting} waiting>"
