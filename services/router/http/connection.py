"""A connection of uvicorn's on which a piece of a streamed body can be sent at once."""

from __future__ import annotations

from typing import Any, Final
from weakref import ref

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION: Final = "spillway.connection"
"""Among the extensions of its ASGI scope a request finds its connection by this name."""


class Connection(HttpToolsProtocol):
    """uvicorn's, which has a coroutine and a message for every piece where this has one write."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open: list[RequestResponseCycle] = []
        """Requests that came and are not answered: more than one where the caller asks ahead."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # Its scope is its own: were this no weak reference, only the garbage collector could end the two.
        self.scope["extensions"] = {EXTENSION: {"connection": ref(self)}}

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._open = [cycle for cycle in self._open if not cycle.response_complete]
        self._open.append(self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # tells the newest request
        for cycle in self._open:
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()

    def write(self, piece: bytes) -> None:
        """Send a piece of the response's body, which has begun and is in chunks. Nothing where the caller has left.

        Who asks `flow.write_paused` first sends no more than the transport holds.
        """
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def abort(self) -> None:
        """Break off: a close would wait until the caller has taken all that is on its way."""
        self.transport.abort()

    def __repr__(self) -> str:
        return f"<Connection{' paused' * self.flow.write_paused}>"
