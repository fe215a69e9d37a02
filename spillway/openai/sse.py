"""Server-sent events, right however the bytes are cut."""

from __future__ import annotations

MAX_EVENT_BYTES = 8 * 2**20
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event of more than MAX_EVENT_BYTES."""


class EventParser:
    """Takes bytes as they come and returns the data of every event that they complete.

    Follows the WHATWG rules: lines end with LF, CR LF or CR; a `:` begins a comment; data lines are joined by LF; an
    event ends with an empty line. Names and ids of events are read over: no provider here needs them.
    """

    __slots__ = ("_after_cr", "_data", "_held", "_started", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that end within `chunk`. Raises EventTooLong."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") if chunk else False
        text = self._tail + chunk
        if not self._started and len(text) >= len(_BOM):
            self._started = True
            text = text.removeprefix(_BOM)
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._tail = text.split(b"\n")
        if len(self._tail) + self._held > MAX_EVENT_BYTES:
            raise EventTooLong
        return self._read(lines)

    def end(self) -> list[bytes]:
        """Return what the stream's end completes: a last event without its empty line."""
        last, self._tail = self._tail, b""
        return self._read([last, b""])

    def _read(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b" ", 5) else line[5:]
                data.append(value)
                self._held += len(value)
            elif not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._held = 0
            elif line == b"data":
                data.append(b"")
        return events

    def __repr__(self) -> str:
        return f"<EventParser {len(self._tail)} bytes of a line, {len(self._data)} lines of an event>"
