"""The ledger: one row per attempt, and no request waits for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import sqlalchemy as sql

from services.router.journal import Journal
from services.router.ledger import ATTEMPTS, SWEEP_ROWS, TABLES, Ledger
from services.router.settings import LedgerSettings
from services.router.target import Price, Target
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call, Caller
from spillway.testing.waiting import eventually

TARGET = Target("local", "local", "a:1", price=Price(0, 0))


def attempt_into(ledger: Ledger, request_id: str = "r") -> None:
    journal = Journal(Call(request_id, Deadline.after(1), caller=Caller("acme")), time.monotonic, ledger.keep)
    attempt = journal.begin(TARGET)
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED, usage=v1.Usage(prompt_tokens=3, completion_tokens=5))


def rows(path: Path) -> list[dict[str, object]]:
    engine = sql.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = [dict(row._mapping) for row in connection.execute(sql.select(ATTEMPTS))]
    engine.dispose()
    return found


async def test_an_attempt_becomes_one_row_and_unknown_is_null(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}"))
    attempt_into(ledger)
    await ledger.close()
    (row,) = rows(path)
    assert (row["tenant"], row["target"], row["outcome"], row["prompt_tokens"]) == ("acme", "local", "answered", 3)
    assert row["cost_nano_usd"] == 0
    assert row["first_token_ms"] is None


async def test_rows_wait_while_the_database_is_away_and_are_written_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "not-there-yet"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{folder}/ledger.sqlite"))
    attempt_into(ledger, "early")
    assert not await ledger.flush()
    folder.mkdir()
    attempt_into(ledger, "late")
    assert await ledger.flush()
    await ledger.close()
    assert [row["request_id"] for row in rows(folder / "ledger.sqlite")] == ["early", "late"]


async def test_memory_is_bounded_while_the_database_is_away_and_the_loss_is_counted(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/no/ledger.sqlite", max_pending=3))
    for _ in range(5):
        attempt_into(ledger)
    assert ledger.lost == 2
    await ledger.close()


def leaving() -> tuple[Journal, Target]:
    call = Call("r", Deadline.after(1), caller=Caller("acme"))
    return Journal(call, time.monotonic, lambda attempt, call: None), Target("cloud", "cloud", "b:1", region="us")


async def test_content_that_leaves_has_its_row_before_it_leaves_and_a_killed_router_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}", flush_s=60, intent_wait_s=30))
    await ledger.start()
    journal, cloud = leaving()
    journal.keep, journal.announce = ledger.keep, ledger.intend
    attempt = journal.begin(cloud)
    await journal.intend(attempt)
    (row,) = rows(path)  # what a router that is killed now leaves behind
    assert (row["target"], row["region"], row["left_site"], row["outcome"]) == ("cloud", "us", True, "pending")
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED, usage=v1.Usage(prompt_tokens=3, completion_tokens=5))
    await ledger.close()
    (row,) = rows(path)
    assert (row["outcome"], row["completion_tokens"]) == ("answered", 5)


async def test_local_attempts_do_not_wait_for_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.sqlite"))
    journal, _ = leaving()
    journal.announce = ledger.intend
    await journal.intend(journal.begin(TARGET))
    assert repr(ledger) == "<Ledger 0 pending, 0 lost>"
    await ledger.close()


async def test_a_dead_database_holds_no_attempt_up_for_long_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "not-there-yet"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{folder}/ledger.sqlite", intent_wait_s=0.01, flush_s=0.01))
    await ledger.start()
    journal, cloud = leaving()
    journal.keep, journal.announce = ledger.keep, ledger.intend
    attempt = journal.begin(cloud)
    await journal.intend(attempt)
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED)
    folder.mkdir()
    await ledger.close()
    (row,) = rows(folder / "ledger.sqlite")
    assert row["outcome"] == "answered"


async def test_a_ledger_of_an_older_version_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    engine = sql.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        TABLES.create_all(connection)
        connection.execute(sql.text("DROP INDEX ix_attempts_uid"))
        connection.execute(sql.text("ALTER TABLE attempts DROP COLUMN uid"))
    engine.dispose()
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}"))
    attempt_into(ledger)
    await ledger.close()
    assert len(rows(path)) == 1


DAY_S = 86_400


async def test_rows_past_the_retention_are_deleted_and_younger_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    days = 0.0
    settings = LedgerSettings(url=f"sqlite:///{path}", retention_days=90, flush_s=0.01)
    ledger = Ledger(settings, lambda: days * DAY_S)
    for day, request_id in ((0, "first"), (60, "second"), (89, "third")):
        days = day
        attempt_into(ledger, request_id)
        assert await ledger.flush()
    assert len(rows(path)) == 3
    days = 151
    await ledger.start()
    await eventually(lambda: [row["request_id"] for row in rows(path)] == ["third"])
    await ledger.close()


async def test_old_rows_are_deleted_in_bounded_batches(tmp_path: Path) -> None:
    now = 0.0
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.sqlite", retention_days=1), lambda: now)
    for _ in range(SWEEP_ROWS + 1):
        attempt_into(ledger)
    await ledger.flush()
    assert await ledger.sweep() == 0
    now = 2 * DAY_S
    assert [await ledger.sweep() for _ in range(3)] == [SWEEP_ROWS, 1, 0]
    await ledger.close()


async def test_flushes_at_once_write_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}"))
    attempt_into(ledger)
    assert all(await asyncio.gather(ledger.flush(), ledger.flush()))
    await ledger.close()
    assert len(rows(path)) == 1


async def test_without_a_retention_every_row_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}"), lambda: 0.0)
    attempt_into(ledger)
    assert await ledger.flush()
    assert await ledger.sweep() == 0
    await ledger.close()
    assert len(rows(path)) == 1


async def test_a_database_that_cannot_be_swept_stops_nothing(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/no/ledger.sqlite", retention_days=1))
    assert await ledger.sweep() == 0
    await ledger.close()
