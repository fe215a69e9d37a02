"""The ledger: one row per attempt, and no request waits for it."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from services.router.confidence import VALIDATOR, Confidence
from services.router.journal import Attempt, Journal
from services.router.ledger import Ledger
from services.router.ledger_tables import ATTEMPTS, SWEEP_ROWS, TABLES, Row
from services.router.settings import LedgerSettings
from services.router.target import Price, Target
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call, Caller
from spillway.testing.clock import HandClock
from spillway.testing.waiting import eventually

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "ledger.md"
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
    assert repr(ledger) == "<Ledger 0 pending, 0 waited for, 0 lost>"
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


async def test_of_an_attempt_that_went_without_its_row_nothing_waits_for_the_database(
    tmp_path: Path,
) -> None:
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/no/ledger.sqlite", intent_wait_s=0.01))
    journal, cloud = leaving()
    journal.announce = ledger.intend
    for _ in range(3):
        await journal.intend(journal.begin(cloud))
    assert not await ledger.flush()
    assert repr(ledger) == "<Ledger 0 pending, 0 waited for, 0 lost>"
    await ledger.close()


async def test_the_row_of_a_scored_answer_has_its_confidence_and_the_time_of_its_target_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}"))
    clock = HandClock()
    journal = Journal(Call("r", Deadline.after(60)), clock, ledger.keep)
    scored, other = (journal.begin(Target("local", "local", "a:1")) for _ in range(2))
    clock.advance(1)
    journal.leave(scored)
    clock.advance(2)
    scored.confidence = Confidence(0.75, VALIDATOR)
    for attempt in (scored, other):
        journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED)
    await ledger.close()
    assert [(row["confidence"], row["duration_ms"]) for row in rows(path)] == [(0.75, 1000), (None, 3000)]


async def test_a_ledger_of_an_older_version_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    engine = sql.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        TABLES.create_all(connection)
        connection.execute(sql.text("DROP INDEX ix_attempts_uid"))
        connection.execute(sql.text("ALTER TABLE attempts DROP COLUMN uid"))
        connection.execute(sql.text("DROP INDEX ix_attempts_pending"))
        connection.execute(sql.text("ALTER TABLE attempts DROP COLUMN router"))
        connection.execute(sql.text("ALTER TABLE attempts DROP COLUMN confidence"))
        connection.execute(sql.text("ALTER TABLE attempts DROP COLUMN duration_ms"))
        connection.execute(sql.text("ALTER TABLE attempts ADD COLUMN duration_ms FLOAT NOT NULL DEFAULT 7"))
        old = "INSERT INTO attempts (at, request_id, number, tenant, target, model, region, left_site, outcome, reason)"
        values = "VALUES ('2026-01-01 00:00:00', 'old', 1, '', '', '', '', 0, 'answered', '')"
        connection.execute(sql.text(f"{old} {values}"))
    engine.dispose()
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}", intent_wait_s=30))
    await ledger.start()
    journal, cloud = leaving()
    journal.announce = ledger.intend
    await journal.intend(journal.begin(cloud))  # its duration is not known
    await ledger.close()
    assert [(row["request_id"], row["duration_ms"]) for row in rows(path)] == [("old", 7), ("r", None)]


class Site:
    """Ledgers that share a file, on a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.path, self.now = folder / "ledger.sqlite", 0.0

    def ledger(self, **knobs: Any) -> Ledger:
        """Of a router that does what the test has it do, and nothing by itself."""
        settings = LedgerSettings(url=f"sqlite:///{self.path}", heartbeat_s=1, dead_s=10, **knobs)
        return Ledger(settings, clock=lambda: self.now)

    async def begun(self, ledger: Ledger, target: Target, request_id: str = "r") -> tuple[Journal, Attempt]:
        """An attempt under way, with its row where it has one by now."""
        call = Call(request_id, Deadline.after(60), caller=Caller("acme"))
        journal = Journal(call, lambda: self.now, ledger.keep, announce=ledger.intend)
        attempt = journal.begin(target)
        told = asyncio.create_task(journal.intend(attempt))
        await asyncio.sleep(0)
        assert await ledger.flush()
        await told
        return journal, attempt

    async def watched(self, ledger: Ledger, seconds: int) -> None:
        """Have `ledger` look at the others once a second."""
        for _ in range(seconds):
            await ledger.recover()
            self.now += 1

    def outcomes(self) -> list[tuple[object, object]]:
        return [(row["request_id"], row["outcome"]) for row in rows(self.path)]


CLOUD = Target("cloud", "cloud", "b:1", region="us")


async def test_what_a_dead_router_left_pending_is_settled_as_lost_and_unknown_stays_unknown(tmp_path: Path) -> None:
    site = Site(tmp_path)
    dead, other = site.ledger(), site.ledger()
    journal, _ = await site.begun(dead, CLOUD, "killed")
    settled = journal.begin(TARGET)
    journal.settle(settled, v1.ATTEMPT_OUTCOME_ANSWERED)
    await dead.flush()
    await other.flush()
    await site.watched(other, 10)
    assert site.outcomes() == [("killed", "pending"), ("killed", "answered")]
    await site.watched(other, 2)
    assert other.recovered == 1
    (row, answered) = rows(site.path)
    assert (row["outcome"], row["left_site"], row["region"]) == ("lost", True, "us")
    assert [row[name] for name in ("cost_nano_usd", "completion_tokens", "duration_ms")] == [None, None, None]
    assert answered["outcome"] == "answered"
    await site.watched(other, 30)
    assert other.recovered == 1
    await other.close()


async def test_the_pending_rows_of_a_live_router_are_never_touched(tmp_path: Path) -> None:
    site = Site(tmp_path)
    slow, other = site.ledger(), site.ledger()
    journal, attempt = await site.begun(slow, CLOUD)
    for _ in range(20):
        await site.watched(other, 6)
        assert await slow.flush()  # nothing new to write, but a sign of life
    assert site.outcomes() == [("r", "pending")]
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED)
    await slow.close()
    await site.watched(other, 30)
    assert site.outcomes() == [("r", "answered")]
    assert other.recovered == 0
    await other.close()


async def test_silence_while_nobody_listened_is_no_death(tmp_path: Path) -> None:
    site = Site(tmp_path)
    away, other = site.ledger(), site.ledger()
    await site.begun(away, CLOUD)
    await site.watched(other, 2)
    site.now += 3600  # the database was away for both
    await site.watched(other, 9)
    assert site.outcomes() == [("r", "pending")]
    for ledger in (away, other):
        await ledger.close()


async def test_a_router_that_was_given_up_too_early_has_the_last_word(tmp_path: Path) -> None:
    site = Site(tmp_path)
    stuck, other = site.ledger(), site.ledger()
    journal, attempt = await site.begun(stuck, CLOUD)
    await site.watched(other, 12)
    assert site.outcomes() == [("r", "lost")]
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED)
    assert await stuck.flush()
    assert site.outcomes() == [("r", "answered")]
    await site.begun(stuck, CLOUD, "then killed")  # it is watched again
    await site.watched(other, 12)
    assert site.outcomes() == [("r", "answered"), ("then killed", "lost")]
    await other.close()


async def test_a_local_attempt_has_a_row_of_its_own_once_it_is_older_than_a_batch(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    ledger = site.ledger(flush_s=0.5)
    journal, attempt = await site.begun(ledger, TARGET)
    assert rows(site.path) == []
    site.now += 0.6
    await ledger.flush()
    assert site.outcomes() == [("r", "pending")]
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED)
    await ledger.close()
    assert site.outcomes() == [("r", "answered")]


async def test_rows_written_once_more_after_a_doubtful_commit_are_there_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    ledger = site.ledger()
    journal, attempt = await site.begun(ledger, CLOUD)
    journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED)
    attempt_into(ledger, "other")
    settled = list(ledger._pending)
    assert await ledger.flush()
    for row in settled:  # as after a commit that was made and whose reply was lost
        ledger._pending.append(Row(row.values, again=True))
    assert await ledger.flush()
    assert site.outcomes() == [("r", "answered"), ("other", "answered")]
    await ledger.close()


async def test_a_ledger_that_closes_while_it_writes_writes_every_row_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    ledger = site.ledger(flush_s=60)
    for number in range(500):
        attempt_into(ledger, f"r{number}")
    await ledger.start()
    await asyncio.sleep(0)  # the first batch is on its way
    await ledger.close()
    assert [request_id for request_id, _ in site.outcomes()] == [f"r{number}" for number in range(500)]


async def test_the_questions_of_the_documentation_are_answered(tmp_path: Path) -> None:
    site = Site(tmp_path)
    dead, other = site.ledger(), site.ledger()
    await site.begun(dead, CLOUD, "killed")
    attempt_into(other, "at home")
    await other.flush()
    await site.watched(other, 12)
    await other.close()
    shares, stayed, lost = map(sql.text, re.findall(r"```sql\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL))
    engine = sql.create_engine(f"sqlite:///{site.path}")
    with engine.connect() as connection:
        (share,) = connection.execute(shares)
        assert (share.region, share.target, share.percent, share.unsure) == ("us", "cloud", 50, 1)
        assert (share.usd_known, share.cost_unknown) == (None, 1)
        assert [tuple(row) for row in connection.execute(stayed)] == [("acme", 2, 50)]
        assert [row.request_id for row in connection.execute(lost)] == ["killed"]
    engine.dispose()


DAY_S = 86_400


async def test_rows_past_the_retention_are_deleted_and_younger_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    days = 0.0
    settings = LedgerSettings(url=f"sqlite:///{path}", retention_days=90, flush_s=0.01)
    ledger = Ledger(settings, wall=lambda: days * DAY_S)
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
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.sqlite", retention_days=1), wall=lambda: now)
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
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{path}"), wall=lambda: 0.0)
    attempt_into(ledger)
    assert await ledger.flush()
    assert await ledger.sweep() == 0
    await ledger.close()
    assert len(rows(path)) == 1


async def test_a_database_that_cannot_be_swept_stops_nothing(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(url=f"sqlite:///{tmp_path}/no/ledger.sqlite", retention_days=1))
    assert await ledger.sweep() == 0
    await ledger.close()
