"""The gate: requests wait here until admission lets them run."""

from __future__ import annotations

import asyncio

from spillway.deadline import Clock, Deadline
from spillway.errors import DeadlineUnmeetable

from .admission import Admission, Ticket
from .admission_settings import AdmissionSettings


class Gate:
    """Admits requests one by one. Who has entered must leave, whatever happens in between."""

    def __init__(self, settings: AdmissionSettings, clock: Clock) -> None:
        self.admission = Admission(settings)
        self._clock = clock
        self._woken: dict[Ticket, asyncio.Future[None]] = {}

    async def enter(self, tenant: str, *, background: bool, deadline: Deadline) -> Ticket:
        """Return when the request may run.

        Raises QueueFull, or DeadlineUnmeetable at the door or as soon as what is left is too short for a first token.
        """
        admission = self.admission
        ticket = admission.offer(tenant, background=background, now=self._clock(), left_s=deadline.left())
        if not ticket.running:
            await self._wait(ticket, deadline)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has ended, or waits no longer."""
        for begun in self.admission.end(ticket, self._clock()):
            self._woken[begun].set_result(None)

    async def _wait(self, ticket: Ticket, deadline: Deadline) -> None:
        woken = self._woken[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(max(0.0, deadline.left() - self.admission.least_first_token_s)):
                await asyncio.shield(woken)  # a cancel must not end what `leave` is about to resolve
        except TimeoutError:
            self.leave(ticket)
            raise DeadlineUnmeetable("no place became free in time", retry_after_s=None) from None
        except BaseException:
            self.leave(ticket)
            raise
        finally:
            del self._woken[ticket]

    def __repr__(self) -> str:
        return f"<Gate {self.admission.running} running {self.admission.waiting} waiting>"
