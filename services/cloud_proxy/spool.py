"""Where audit records wait while the store is away: a table of SQLite, in a folder or in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from spillway.settings import SettingsError

T = TypeVar("T")

NAME = "audit.sqlite"
_SCHEMA = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS waiting (
    place INTEGER PRIMARY KEY AUTOINCREMENT, writer TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL
);
"""


class Waiting(NamedTuple):
    """One record: `number` counts those of `writer`, from 1; `place` is its own in the spool."""

    place: int
    writer: str
    number: int
    record: str


class SpoolError(Exception):
    """The spool could not be read or written: the disk is full, or worse."""


class Spool:
    """Records in the order in which they came. One thread does all the work, so the loop never waits for the disk."""

    def __init__(self, folder: Path | None) -> None:
        """Keep records in `folder`, for this process alone; None: in memory, where they end with the process."""
        self._path = None if folder is None else folder / NAME
        self._thread = ThreadPoolExecutor(1, "audit-spool")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> int:
        """Return how many records wait from before. Raises SettingsError where the folder cannot be used."""
        try:
            return await self._run(self._open)
        except (SpoolError, OSError) as error:
            raise SettingsError(f"cloud_proxy.audit.folder: {self._path}: cannot be used: {error}") from None

    async def add(self, writer: str, records: Sequence[tuple[int, str]]) -> None:
        """Keep numbered `records` of `writer`, all or none. Raises SpoolError."""
        rows = [(writer, number, record) for number, record in records]
        insert = "INSERT INTO waiting (writer, number, record) VALUES (?, ?, ?)"
        await self._do(lambda found: found.executemany(insert, rows))

    async def oldest(self, count: int) -> list[Waiting]:
        """Return the `count` oldest of one writer, as far as no other's are among them. Raises SpoolError."""
        select = "SELECT place, writer, number, record FROM waiting ORDER BY place LIMIT ?"
        rows = await self._do(lambda found: found.execute(select, (count,)).fetchall())
        found = [Waiting(*row) for row in rows]
        return found[: next((at for at, each in enumerate(found) if each.writer != found[0].writer), len(found))]

    async def drop(self, rows: Sequence[Waiting]) -> None:
        """Forget `rows`, the oldest. Raises SpoolError."""
        last = rows[-1].place
        await self._do(lambda found: found.execute("DELETE FROM waiting WHERE place <= ?", (last,)))

    async def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            await self._run(self._connection.close)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        assert connection is not None, "open it first"

        def done() -> T:
            with connection:
                return work(connection)

        return await self._run(done)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from None

    def _open(self) -> int:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path or ":memory:", timeout=0, check_same_thread=False)
        self._connection.executescript(_SCHEMA)
        with self._connection:
            self._connection.execute("DELETE FROM waiting WHERE place < 0")  # takes the lock now, not with a record
        return int(self._connection.execute("SELECT COUNT(*) FROM waiting").fetchone()[0])

    def __repr__(self) -> str:
        return f"<Spool {self._path or 'in memory'}>"
