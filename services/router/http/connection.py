"""A connection of uvicorn's on which a piece of a streamed body can be sent at once."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION: Final = "spillway.connection"
"""Among the extensions of its ASGI scope a request finds its connection by this name."""


class Connection(HttpToolsProtocol):
    """uvicorn's, which has a coroutine and a message for every piece where this has one write."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self}}

    def write(self, piece: bytes) -> None:
        """Send a piece of the response's body, which has begun and is in chunks. Nothing where the caller has left.

        Who asks `flow.write_paused` first sends no more than the transport holds.
        """
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def __repr__(self) -> str:
        return f"<Connection{' paused' * self.flow.write_paused}>"
