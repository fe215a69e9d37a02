"""A connection of uvicorn's on which pieces of a streamed body can be sent without a turn of the loop."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION: Final = "spillway.connection"
"""Under which a request finds its connection among the extensions of its ASGI scope."""


class Connection(HttpToolsProtocol):
    """uvicorn's, which writes no less than a coroutine, a message and a dozen questions for every piece."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self}}

    @property
    def ready(self) -> bool:
        """Its reader has taken what was sent, but for what the transport holds anyway."""
        return not self.flow.write_paused and not self.transport.is_closing()

    def write(self, piece: bytes) -> None:
        """Send a piece of the body of the response that has begun: one without a length of its own, so in chunks."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def __repr__(self) -> str:
        return f"<Connection {'ready' if self.ready else 'waiting'}>"
