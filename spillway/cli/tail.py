"""The end of a file that another process writes."""

from __future__ import annotations

from pathlib import Path

CHUNK_BYTES = 2**18
LINE_BYTES = 2**16


class Tail:
    """Reads what has been added to a file since the last look, line by line. Over-long lines come in pieces."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._file.seek(0, 2)
        self._rest = b""

    def lines(self) -> list[str]:
        """Return the lines that are complete by now, at most 256 KiB of them at once."""
        *whole, self._rest = (self._rest + self._file.read(CHUNK_BYTES)).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            whole.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace").rstrip("\r") for line in whole]

    def close(self) -> None:
        self._file.close()
