"""The ledger's tables, and the few things that are done to them. See docs/ledger.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql

TABLES = sql.MetaData()
PENDING = "pending"
"""Outcome of an attempt that was about to be made, or was being made, when its row was written."""
SWEEP_ROWS = 500
"""Rows deleted in one transaction."""
LOST = "lost"
"""Outcome of an attempt whose router died before it was settled: what came of it is not known."""
ATTEMPTS = sql.Table(
    "attempts",
    TABLES,
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sql.Column("uid", sql.String(32), index=True),
    sql.Column("router", sql.String(32)),
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
    sql.Column("duration_ms", sql.Float),
    sql.Column("confidence", sql.Float),
)
"""Unknown is NULL. `request_id` and `number` name an attempt to its caller, `uid` to the ledger."""
_IS_PENDING = sql.text(f"outcome = '{PENDING}'")  # a bound value would keep the index below out of use
sql.Index("ix_attempts_pending", ATTEMPTS.c.router, sqlite_where=_IS_PENDING, postgresql_where=_IS_PENDING)
ROUTERS = sql.Table(
    "routers",
    TABLES,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("name", sql.String(128), nullable=False),
    sql.Column("started_at", sql.DateTime(timezone=True), nullable=False),
    sql.Column("seen_at", sql.DateTime(timezone=True), nullable=False),
    sql.Column("beat", sql.BigInteger, nullable=False),
    sql.Column("ended", sql.String(8)),
)
"""One row per run of a router. `ended` is NULL while it runs, else `closed` or `lost`."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a router, by which its rows are its own."""

    id: str
    name: str
    started_at: datetime


@dataclass(slots=True)
class Row:
    """An attempt as it is to be written. `again`: a row of it may be there, which this one takes the place of."""

    values: dict[str, Any]
    again: bool


_FORGET = ATTEMPTS.delete().where(ATTEMPTS.c.uid == sql.bindparam("of"))


def prepare(connection: sql.Connection) -> None:
    """Make what is not there, and bring a ledger of an older version up to this one."""
    TABLES.create_all(connection)
    there = {column["name"]: column for column in sql.inspect(connection).get_columns(ATTEMPTS.name)}
    for column in ATTEMPTS.columns:
        kind = column.type.compile(connection.dialect)
        if column.name not in there:
            connection.execute(sql.text(f"ALTER TABLE {ATTEMPTS.name} ADD COLUMN {column.name} {kind}"))
        elif column.nullable and not there[column.name]["nullable"]:
            for step in (  # the same on every database; SQLite cannot change a column in place
                f"ALTER TABLE {ATTEMPTS.name} ADD COLUMN new_{column.name} {kind}",
                f"UPDATE {ATTEMPTS.name} SET new_{column.name} = {column.name}",
                f"ALTER TABLE {ATTEMPTS.name} DROP COLUMN {column.name}",
                f"ALTER TABLE {ATTEMPTS.name} RENAME COLUMN new_{column.name} TO {column.name}",
            ):
                connection.execute(sql.text(step))
    for index in ATTEMPTS.indexes:
        index.create(connection, checkfirst=True)


def write(connection: sql.Connection, run: Run, beat: int, rows: Sequence[Row]) -> None:
    """Write `rows` with a sign of life of the router whose they are.

    The sign is in the same transaction, so no row is without a router that others can watch. Writing the same rows once
    more, after a commit of which nobody knows whether it was made, changes nothing.
    """
    alive = {"seen_at": datetime.now(UTC), "beat": beat, "ended": None}
    if not connection.execute(ROUTERS.update().where(ROUTERS.c.id == run.id).values(alive)).rowcount:
        known = {"id": run.id, "name": run.name, "started_at": run.started_at}
        connection.execute(ROUTERS.insert().values(**known, **alive))
    if again := [{"of": row.values["uid"]} for row in rows if row.again]:
        connection.execute(_FORGET, again)
    if rows:
        connection.execute(ATTEMPTS.insert(), [row.values for row in rows])


def beats(connection: sql.Connection) -> dict[str, int]:
    """Return the last sign of life of every router that has not ended, by its id."""
    found = connection.execute(sql.select(ROUTERS.c.id, ROUTERS.c.beat).where(ROUTERS.c.ended.is_(None)))
    return {row.id: row.beat for row in found}


def bury(connection: sql.Connection, id: str, beat: int) -> int:
    """Settle as lost what router `id` left pending; return how much that is.

    Nothing is touched if it gave a sign of life after `beat`, or another has buried it.
    """
    last = (ROUTERS.c.id == id) & (ROUTERS.c.beat == beat) & ROUTERS.c.ended.is_(None)
    if not connection.execute(ROUTERS.update().where(last).values(ended=LOST)).rowcount:
        return 0
    left = ATTEMPTS.update().where(_IS_PENDING, ATTEMPTS.c.router == id)
    return connection.execute(left.values(outcome=LOST)).rowcount


def leave(connection: sql.Connection, run: Run) -> None:
    """Say that this run ended in good order, with nothing pending."""
    connection.execute(ROUTERS.update().where(ROUTERS.c.id == run.id).values(ended="closed"))


def sweep(connection: sql.Connection, before: datetime) -> int:
    """Delete the oldest attempts from before then, SWEEP_ROWS at most; return how many."""
    # By id and in two steps: not every database takes a LIMIT where it deletes.
    old = sql.select(ATTEMPTS.c.id).where(ATTEMPTS.c.at < before).order_by(ATTEMPTS.c.at).limit(SWEEP_ROWS)
    found = connection.execute(old).scalars().all()
    if found:
        connection.execute(ATTEMPTS.delete().where(ATTEMPTS.c.id.in_(found)))
    return len(found)
