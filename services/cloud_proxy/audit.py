"""The audit trail: what left, by whose word, to where. Written before content leaves, and again when the call is over.

A record is kept once the store has it, or the spool while the store is away. Records are numbered, and the store takes
each number of a writer once, in order: what was sent and never heard of again is sent again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.cloud_proxy.audit_settings import AuditSettings
from services.cloud_proxy.spool import Spool, SpoolError
from spillway.audit import FIELD, INTENT, STREAM, Record
from spillway.errors import TargetDown
from spillway.logs import get_logger
from spillway.store.redis import Script, Store, StoreUnavailable

log = get_logger(__name__)

AWAY_S = 1.0
"""After a failure the store is left alone for so long."""
FLUSH_S = 0.05
"""Longest that a record waits for others, where no call waits for it."""
BATCH = 256
REMEMBERED_S = 30 * 86_400
"""So long the store remembers what it has of a writer; a spool that is found later may tell a record twice."""

APPEND: Final = Script(
    f"""
-- KEYS: the stream, the last number of this writer. ARGV: entries to keep, milliseconds to remember the writer for,
-- then number and record, again and again. Returns how many were new.
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
local new = 0
for i = 3, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  if number > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', '{FIELD.decode()}', ARGV[i + 1])
    last, new = number, new + 1
  end
end
redis.call('SET', KEYS[2], last, 'PX', ARGV[2])
return new
"""
)


@dataclass(slots=True)
class _Pending:
    """A record on its way. `kept` is told whether it is, where somebody waits."""

    number: int
    record: str
    kept: asyncio.Future[bool] | None = None

    def tell(self, kept: bool) -> None:
        if self.kept is not None and not self.kept.done():
            self.kept.set_result(kept)


class Audit:
    """Keeps the records of one proxy. It works while `run` runs."""

    def __init__(self, settings: AuditSettings, store: Store, spool: Spool, *, away_s: float = AWAY_S) -> None:
        self._settings = settings
        self._store = store
        self._spool = spool
        self._away_s = away_s
        self._writer = uuid.uuid4().hex
        self._number = 0
        self._pending: list[_Pending] = []
        self._wake = asyncio.Event()
        self._backlog = asyncio.Event()
        self._flush: asyncio.TimerHandle | None = None
        self._open: set[str] = set()
        self.waiting = 0
        """Records in the spool."""
        self.lost = 0
        """Records that could not be kept, since the start."""

    async def open(self) -> None:
        """Find what a proxy before this one left. Raises SettingsError where the spool cannot be used."""
        self._wait(await self._spool.open())

    async def opened(self, record: Record) -> None:
        """Return when the intent of a call is kept. Raises TargetDown where it cannot be, and nothing may leave so."""
        if not self._full:
            self._open.add(record["id"])
            kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._append({**record, "phase": INTENT}, kept)
            self._wake.set()
            if await kept:
                return
            self._open.discard(record["id"])
        if self._settings.when_full == "refuse":
            raise TargetDown("no audit record can be kept: the store is away and nothing more may wait for it")
        self._lose(1)

    def told(self, record: Record) -> None:
        """Keep how a call ended, or that it was refused; nobody waits for it."""
        if record["id"] in self._open:
            self._open.discard(record["id"])
        elif record["left"]:
            return  # its intent was dropped, and counted
        elif self._full:
            self._lose(1)
            return
        self._append(record, None)
        if self._flush is None and not self._wake.is_set():
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._wake.set)

    async def run(self) -> None:
        """Keep what comes, for ever, and send what waits once the store is back."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._keep_on())
            both.create_task(self._catch_up())

    async def close(self) -> None:
        """Keep what has come; what then waits in memory is lost."""
        await self._keep()
        while self.waiting and await self._send_oldest():
            pass
        if left := self.waiting:
            log.warning("audit.left_behind", records=left, spool=repr(self._spool))
        await self._spool.close()

    @property
    def _full(self) -> bool:
        return self.waiting + len(self._pending) >= self._settings.max_waiting

    def _append(self, record: Record, kept: asyncio.Future[bool] | None) -> None:
        self._number += 1
        told = json.dumps({**record, "proxy": self._writer}, separators=(",", ":"), ensure_ascii=False)
        self._pending.append(_Pending(self._number, told, kept))

    async def _keep_on(self) -> None:
        while True:
            await self._wake.wait()
            await self._keep()

    async def _keep(self) -> None:
        """Send what is pending to the store, or put it behind what waits for it."""
        self._wake.clear()
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            kept = (not self.waiting and await self._sent(batch)) or await self._spooled(batch)
        except asyncio.CancelledError:
            self._pending = batch + self._pending  # `close` sends it, again if need be: each number counts once
            raise
        for each in batch:
            each.tell(kept)

    async def _sent(self, batch: Sequence[_Pending]) -> bool:
        try:
            async with asyncio.timeout(self._settings.store_wait_s):
                await self._put(self._writer, [(each.number, each.record) for each in batch])
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("audit.store_away", why=type(error).__name__, rule="records wait", spool=repr(self._spool))
            return False
        return True

    async def _spooled(self, batch: Sequence[_Pending]) -> bool:
        self._wait(len(batch))  # before it is there: whoever comes now comes behind it
        try:
            await self._spool.add(self._writer, [(each.number, each.record) for each in batch])
        except SpoolError as error:
            log.error("audit.not_kept", why=str(error), records=len(batch))
            self._wait(-len(batch))
            self._lose(sum(each.kept is None for each in batch))
            return False
        except asyncio.CancelledError:
            self._wait(-len(batch))
            raise
        return True

    async def _catch_up(self) -> None:
        while True:
            await self._backlog.wait()
            await asyncio.sleep(self._away_s)
            while self.waiting and await self._send_oldest():
                pass
            if not self.waiting:
                log.info("audit.store_back")

    async def _send_oldest(self) -> bool:
        """Send the oldest that wait; return whether the store took them."""
        try:
            rows = await self._spool.oldest(BATCH)
            if not rows:
                return False  # they are being added
            await self._put(rows[0].writer, [(row.number, row.record) for row in rows])
            await self._spool.drop(rows)
        except StoreUnavailable:
            return False
        except SpoolError as error:
            log.error("audit.not_read", why=str(error))
            return False
        self._wait(-len(rows))
        return True

    async def _put(self, writer: str, records: Sequence[tuple[int, str]]) -> None:
        keys = [STREAM, f"{{{STREAM}}}:{writer}"]  # one hash slot
        arguments: list[str | int] = [self._settings.keep_records, REMEMBERED_S * 1000]
        for record in records:
            arguments += record
        await self._store.run(APPEND, keys, arguments)

    def _wait(self, more: int) -> None:
        self.waiting += more
        if self.waiting:
            self._backlog.set()
        else:
            self._backlog.clear()

    def _lose(self, records: int) -> None:
        if records:
            self.lost += records
            log.error("audit.lost", records=records, lost=self.lost)

    def __repr__(self) -> str:
        return f"<Audit {self._writer[:8]} {self.waiting} waiting {self.lost} lost>"
