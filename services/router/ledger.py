"""The ledger: one row per attempt, in SQL, written in batches by a thread of its own.

An attempt that sends content off the site has its row, outcome `pending`, before the content leaves; the row is settled
afterwards, so a router that is killed leaves no gap in what it sent away. A slow or dead database stops no inference:
after a while the attempt goes on, rows wait in memory up to a bound, and what is lost beyond it is counted.

Rows older than the retention, where there is one, are deleted by the same thread: a batch between two writes, so that
no attempt waits for more than one.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from spillway import v1
from spillway.logs import get_logger
from spillway.rpc.call import Call

from .journal import Attempt
from .settings import LedgerSettings

log = get_logger(__name__)

TABLES = sql.MetaData()
ATTEMPTS = sql.Table(
    "attempts",
    TABLES,
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sql.Column("uid", sql.String(32), index=True),
    sql.Column("at", sql.DateTime(timezone=True), nullable=False, index=True),
    sql.Column("request_id", sql.String(128), nullable=False, index=True),
    sql.Column("number", sql.Integer, nullable=False),
    sql.Column("tenant", sql.String(128), nullable=False),
    sql.Column("target", sql.String(128), nullable=False),
    sql.Column("model", sql.String(256), nullable=False),
    sql.Column("region", sql.String(64), nullable=False),
    sql.Column("left_site", sql.Boolean, nullable=False),
    sql.Column("outcome", sql.String(32), nullable=False),
    sql.Column("reason", sql.String(64), nullable=False),
    sql.Column("prompt_tokens", sql.Integer),
    sql.Column("completion_tokens", sql.Integer),
    sql.Column("cost_nano_usd", sql.BigInteger),
    sql.Column("first_token_ms", sql.Float),
    sql.Column("duration_ms", sql.Float, nullable=False),
)
"""Unknown is NULL. `request_id` and `number` name an attempt to its caller, `uid` to the ledger."""
PENDING = "pending"
"""Outcome of an attempt that was about to be made when its row was written."""
SWEEP_ROWS = 500
"""Rows deleted in one transaction."""
_SETTLE = ATTEMPTS.update().where(ATTEMPTS.c.uid == sql.bindparam("of"))


class Ledger:
    """Keeps attempts. `keep` costs an append, `intend` waits for a commit; a task of its own writes."""

    def __init__(self, settings: LedgerSettings, wall: Callable[[], float] = time.time) -> None:
        """`wall` gives seconds since the epoch."""
        self._settings = settings
        self._wall = wall
        self._sweep_due = 0.0
        self._engine = sql.create_engine(settings.url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._pending: deque[dict[str, Any]] = deque()
        self._ready = False
        self._writing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing = asyncio.Lock()
        """The last flush, at the end, must not write again what one still under way is writing."""
        self.lost = 0

    def keep(self, attempt: Attempt, call: Call) -> None:
        """Account for a settled attempt."""
        self._add(self._row(attempt, call))

    async def intend(self, attempt: Attempt, call: Call) -> None:
        """Account for an attempt that is about to be made; returns when its row is written, or too late to wait for."""
        attempt.uid = uuid.uuid4().hex
        self._add({**self._row(attempt, call), "uid": attempt.uid, "outcome": PENDING})
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        self._wake.set()
        try:
            async with asyncio.timeout(self._settings.intent_wait_s):
                await written
        except TimeoutError:
            log.warning("ledger.intent_unwritten", pending=len(self._pending))

    def _row(self, attempt: Attempt, call: Call) -> dict[str, Any]:
        return _row(attempt, call, datetime.fromtimestamp(self._wall(), UTC))

    def _add(self, row: dict[str, Any]) -> None:
        if len(self._pending) >= self._settings.max_pending:
            self._pending.popleft()
            self.lost += 1
        self._pending.append(row)

    @property
    def pending(self) -> int:
        """Rows that wait to be written."""
        return len(self._pending)

    async def start(self) -> None:
        self._writing = asyncio.create_task(self._keep_writing(), name="ledger")

    async def flush(self) -> bool:
        """Write what is pending; whether the database took it."""
        async with self._flushing:
            return await self._flush()

    async def _flush(self) -> bool:
        rows, waiting = list(self._pending), self._waiting
        self._waiting = []
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, rows)
        except (SQLAlchemyError, OSError) as error:
            if self._ready:
                log.warning("ledger.away", error=type(error).__name__, pending=len(rows), lost=self.lost)
            self._ready = False
            self._waiting += waiting
            return False
        for _ in rows:
            self._pending.popleft()
        for written in waiting:
            if not written.done():
                written.set_result(None)
        if not self._ready:
            log.info("ledger.ready", url=self._engine.url.render_as_string(hide_password=True))
            self._ready = True
        return True

    async def sweep(self) -> int:
        """Delete the oldest rows that are past the retention, SWEEP_ROWS at most; return how many."""
        if self._settings.retention_days is None:
            return 0
        before = datetime.fromtimestamp(self._wall(), UTC) - timedelta(days=self._settings.retention_days)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._delete, before)
        except (SQLAlchemyError, OSError) as error:
            log.warning("ledger.unswept", error=type(error).__name__)
            return 0

    async def close(self) -> None:
        """Write what is pending, as far as the database takes it, and stop."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        if not await self.flush():
            log.error("ledger.lost", rows=len(self._pending) + self.lost)
        self._thread.shutdown()
        self._engine.dispose()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:
            if not self._ready:
                TABLES.create_all(connection)
                _add_columns(connection)
            made = [row for row in rows if "of" not in row]
            settled = [row for row in rows if "of" in row]
            if made:
                connection.execute(ATTEMPTS.insert(), made)
            if settled:  # after the rows they settle, which may be of the same batch
                connection.execute(_SETTLE, settled)

    def _delete(self, before: datetime) -> int:
        with self._engine.begin() as connection:
            # By id and in two steps: not every database takes a LIMIT where it deletes.
            old = sql.select(ATTEMPTS.c.id).where(ATTEMPTS.c.at < before).order_by(ATTEMPTS.c.at).limit(SWEEP_ROWS)
            found = connection.execute(old).scalars().all()
            if found:
                connection.execute(ATTEMPTS.delete().where(ATTEMPTS.c.id.in_(found)))
            return len(found)

    async def _keep_writing(self) -> None:
        while True:
            if self._pending or not self._ready:
                await asyncio.shield(self.flush())
            if self._ready and self._wall() >= self._sweep_due and await asyncio.shield(self.sweep()) < SWEEP_ROWS:
                self._sweep_due = self._wall() + self._settings.sweep_s
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.flush_s):
                    await self._wake.wait()
            self._wake.clear()

    def __repr__(self) -> str:
        return f"<Ledger {len(self._pending)} pending, {self.lost} lost>"


def _add_columns(connection: sql.Connection) -> None:
    """Give a ledger of an older version the columns it lacks."""
    there = {column["name"] for column in sql.inspect(connection).get_columns(ATTEMPTS.name)}
    for column in ATTEMPTS.columns:
        if column.name not in there:
            kind = column.type.compile(connection.dialect)
            connection.execute(sql.text(f"ALTER TABLE {ATTEMPTS.name} ADD COLUMN {column.name} {kind}"))


def _row(attempt: Attempt, call: Call, at: datetime) -> dict[str, Any]:
    record = attempt.record
    of = {"of": attempt.uid} if attempt.uid and attempt.settled else {"uid": None}
    return {
        **of,
        "at": at,
        "request_id": call.request_id,
        "number": attempt.number,
        "tenant": call.caller.tenant,
        "target": record.target,
        "model": record.model,
        "region": record.region,
        "left_site": record.left_site,
        "outcome": v1.AttemptOutcome.Name(record.outcome).removeprefix("ATTEMPT_OUTCOME_").lower(),
        "reason": record.reason,
        "duration_ms": record.duration_ms,
        "prompt_tokens": record.prompt_tokens if record.HasField("prompt_tokens") else None,
        "completion_tokens": record.completion_tokens if record.HasField("completion_tokens") else None,
        "cost_nano_usd": record.cost_nano_usd if record.HasField("cost_nano_usd") else None,
        "first_token_ms": record.first_token_ms if record.HasField("first_token_ms") else None,
    }
