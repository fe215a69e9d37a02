"""The ledger: one row per attempt, and no request waits for it."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sql

from services.router.journal import Journal
from services.router.ledger import ATTEMPTS, Ledger
from services.router.settings import LedgerSettings
from services.router.target import Price, Target
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call, Caller

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
