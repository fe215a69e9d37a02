"""The ledger: one row per attempt, in SQL, written in batches by a thread of its own. Its promise is docs/ledger.md.

An attempt that sends content off the site has its row, outcome `pending`, before the content leaves; one that stays
gets its row where it is still under way at the next batch but one. Settled, the row is replaced; the rows of a router
that died are settled as `lost` by any other that shares the ledger. A slow or dead database stops no inference: after a
while the attempt goes on, rows wait in memory up to a bound, and what is dropped beyond it is counted.

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
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from spillway.deadline import Clock
from spillway.logs import get_logger
from spillway.rpc.call import Call, new_id

from .journal import OUTCOMES, Attempt
from .ledger_tables import PENDING, SWEEP_ROWS, Row, Run, beats, bury, leave, prepare, sweep, write
from .pulse import Pulse
from .settings import LedgerSettings

log = get_logger(__name__)
T = TypeVar("T")


class Ledger:
    """Keeps attempts. `keep` costs an append, `intend` waits for a commit; a task of its own writes."""

    def __init__(
        self,
        settings: LedgerSettings,
        name: str = "router",
        clock: Clock = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`wall` gives seconds since the epoch."""
        self._settings = settings
        self._wall = wall
        self._run = Run(uuid.uuid4().hex, name, self._now())
        self._clock = clock
        self._sweep_due = 0.0
        self._engine = sql.create_engine(settings.url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._pending: deque[Row] = deque()
        self._fresh: dict[str, tuple[Attempt, Call]] = {}  # under way and not in a batch yet, the oldest first
        self._leaving: dict[str, tuple[Attempt, Call]] = {}  # the same, where somebody waits for the row
        self._told: set[str] = set()  # under way, and their rows may be there
        self._ready = False
        self._flushing = asyncio.Lock()
        self._beat = 0
        self._pulse = Pulse(settings.dead_s)
        self._looked: float | None = None
        self._writing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self.lost = 0
        self.recovered = 0
        """Attempts of other routers, which died, settled as lost."""

    def keep(self, attempt: Attempt, call: Call) -> None:
        """Account for a settled attempt."""
        uid = attempt.uid or new_id()
        self._fresh.pop(uid, None)
        self._leaving.pop(uid, None)
        row = Row(self._row(attempt, call, uid), uid in self._told)
        self._told.discard(uid)
        self._pending.append(row)
        self._bound()

    async def intend(self, attempt: Attempt, call: Call) -> None:
        """Account for an attempt that is about to be made.

        One that leaves the site waits until its row is written, or it is too late to wait for.
        """
        attempt.uid = new_id()
        if not attempt.record.left_site:
            self._fresh[attempt.uid] = attempt, call
            return
        self._leaving[attempt.uid] = attempt, call
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        self._wake.set()
        try:
            async with asyncio.timeout(self._settings.intent_wait_s):
                await written
        except TimeoutError:
            log.warning("ledger.intent_unwritten", pending=len(self._pending))

    @property
    def pending(self) -> int:
        """Rows that wait to be written."""
        return len(self._pending)

    async def start(self) -> None:
        self._writing = asyncio.create_task(self._keep_writing(), name="ledger")

    async def flush(self) -> bool:
        """Write what is pending; whether the database took it."""
        async with self._flushing:
            rows, waiting = [*self._pending, *self._intents()], self._waiting
            settled = len(self._pending)
            self._pending, self._waiting = deque(), []
            self._beat += 1
            try:
                await self._in_thread(partial(self._write, rows=rows))
            except (SQLAlchemyError, OSError) as error:
                for row in rows:
                    row.again = True  # a commit may be made though it seems to have failed
                self._pending.extendleft(reversed(rows[:settled]))
                self._bound()
                self._waiting += (written for written in waiting if not written.done())
                if self._ready:
                    log.warning("ledger.away", error=type(error).__name__, pending=len(self._pending), lost=self.lost)
                self._ready = False
                return False
            for row in rows[settled:]:
                self._fresh.pop(row.values["uid"], None)
                self._leaving.pop(row.values["uid"], None)
            for written in waiting:
                if not written.done():
                    written.set_result(None)
            if not self._ready:
                log.info("ledger.ready", url=self._engine.url.render_as_string(hide_password=True))
                self._ready = True
            return True

    async def recover(self) -> int:
        """Settle as lost what routers that have died left pending; return how many rows that were."""
        found = 0
        self._looked = self._clock()
        try:
            for id, beat in self._pulse.silent(await self._in_thread(beats), self._clock()).items():
                if id == self._run.id:
                    continue
                rows = await self._in_thread(partial(bury, id=id, beat=beat))
                log.warning("ledger.router_died", router=id, lost=rows)
                found += rows
        except (SQLAlchemyError, OSError) as error:
            log.warning("ledger.not_recovered", error=type(error).__name__)
        self.recovered += found
        return found

    async def sweep(self) -> int:
        """Delete the oldest rows that are past the retention, SWEEP_ROWS at most; return how many."""
        if self._settings.retention_days is None:
            return 0
        before = self._now() - timedelta(days=self._settings.retention_days)
        try:
            return await self._in_thread(partial(sweep, before=before))
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
        elif not self._told:
            with suppress(SQLAlchemyError, OSError):
                await self._in_thread(partial(leave, run=self._run))
        self._thread.shutdown()
        self._engine.dispose()

    def _intents(self) -> list[Row]:
        """Rows of attempts under way: all that leave the site, and of the others those older than a batch's wait."""
        due = list(self._leaving.items())
        old = self._clock() - self._settings.flush_s
        for uid, (attempt, call) in self._fresh.items():
            if attempt.began > old:
                break
            due.append((uid, (attempt, call)))
        rows = []
        for uid, (attempt, call) in due:
            values = {**self._row(attempt, call, uid), "outcome": PENDING, "duration_ms": None}
            rows.append(Row(values, uid in self._told))
            self._told.add(uid)
        return rows

    def _row(self, attempt: Attempt, call: Call, uid: str) -> dict[str, Any]:
        """The row of `attempt` as it is now."""
        record = attempt.record
        return {
            "uid": uid,
            "router": self._run.id,
            "at": self._now(),
            "request_id": call.request_id,
            "number": attempt.number,
            "tenant": call.caller.tenant,
            "target": record.target,
            "model": record.model,
            "region": record.region,
            "left_site": record.left_site,
            "outcome": OUTCOMES[record.outcome],
            "reason": record.reason,
            "duration_ms": record.duration_ms,
            "prompt_tokens": record.prompt_tokens if record.HasField("prompt_tokens") else None,
            "completion_tokens": record.completion_tokens if record.HasField("completion_tokens") else None,
            "cost_nano_usd": record.cost_nano_usd if record.HasField("cost_nano_usd") else None,
            "first_token_ms": record.first_token_ms if record.HasField("first_token_ms") else None,
            "confidence": record.confidence if record.HasField("confidence") else None,
        }

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _bound(self) -> None:
        while len(self._pending) > self._settings.max_pending:
            self._pending.popleft()
            self.lost += 1

    def _write(self, connection: sql.Connection, rows: list[Row]) -> None:
        if not self._ready:
            prepare(connection)
        write(connection, self._run, self._beat, rows)

    async def _in_thread(self, do: Callable[[sql.Connection], T]) -> T:
        def done() -> T:
            with self._engine.begin() as connection:
                return do(connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, done)

    async def _keep_writing(self) -> None:
        while True:
            due = self._looked is None or self._clock() - self._looked >= self._settings.heartbeat_s
            if self._pending or self._leaving or self._fresh or due:
                await asyncio.shield(self.flush())
            if due:
                await self.recover()
            if self._ready and self._wall() >= self._sweep_due and await self.sweep() < SWEEP_ROWS:
                self._sweep_due = self._wall() + self._settings.sweep_s
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.flush_s):
                    await self._wake.wait()
            self._wake.clear()

    def __repr__(self) -> str:
        return f"<Ledger {len(self._pending)} pending, {len(self._waiting)} waited for, {self.lost} lost>"
