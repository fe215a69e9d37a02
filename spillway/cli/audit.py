"""`spillway audit`: what left the site, by whose word, to where."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.table import Table
from rich.text import Text

from spillway.audit import STREAM, UNKNOWN, Record, folded, read
from spillway.cli import failure, state
from spillway.cli.cloud import days, table
from spillway.cli.terminal import err, money, out, plain, quiet

PATIENCE_S = 5.0
MOST = 20_000
"""Records that are looked through for a tenant or provider, where no time is given."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def run(
    *, tenant: str | None, provider: str | None, since: str | None, last: int, store: str | None, as_json: bool
) -> int:
    """Print the newest `last` calls that fit, oldest first, and what went where; return the exit code."""
    quiet()
    start = None if since is None else read_since(since, datetime.now(UTC))
    mesh = state.find()
    url = store or (mesh.store if mesh is not None else "")
    if not url:
        err().print("name the store: --store redis://host:port/db")
        return failure.EXIT_INVALID
    try:
        records = asyncio.run(_records(url, start, 4 * last if tenant is None and provider is None else MOST))
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        err().print(plain(f"the store cannot be read: {type(error).__name__}"), markup=False)
        return failure.EXIT_UNAVAILABLE
    calls = [
        each
        for each in folded(records)
        if (tenant is None or each["tenant"] == tenant) and (provider is None or each["provider"] == provider)
    ][-last:]
    if as_json:
        for each in calls:
            print(json.dumps(each))
        return 0
    console = out()
    console.print(call_table(calls))
    console.print()
    console.print(sum_table(calls))
    return 0


def read_since(said: str, now: datetime) -> datetime:
    """Return the time that `said` means: 90m, 2h, 7d before `now`, or a date or time of ISO 8601, UTC.

    Raises typer.BadParameter for anything else.
    """
    if span := re.fullmatch(r"(\d{1,6})([smhd])", said):
        return now - timedelta(**{UNITS[span[2]]: int(span[1])})
    try:
        found = datetime.fromisoformat(said)
    except ValueError:
        raise typer.BadParameter(f"--since: {said!r} is no 90m, 2h, 7d, nor 2026-11-21T08:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def _records(url: str, start: datetime | None, newest: int) -> list[Record]:
    """Read what is on record since `start`; without, the `newest` records."""
    redis = Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
    try:
        if start is not None:
            found: Any = await redis.xrange(STREAM, min=round(start.timestamp() * 1000))
        else:
            found = await redis.xrevrange(STREAM, count=newest)
            found.reverse()
        return list(read(found))
    finally:
        await redis.aclose()


def call_table(calls: Sequence[Record]) -> Table:
    """Return one row for each call."""
    drawn = table("at", "tenant", "target", "region", "kept", "#bytes", "#tokens", "outcome", "#cost")
    for each in calls:
        left, outcome = each["left"], str(each["outcome"])
        colour = "green" if outcome == "ANSWERED" else "yellow" if left else "dim"
        target = Text(plain(each["target"]), "bold")
        if each["simulated"]:
            target.append(" SIMULATED", "yellow")
        drawn.add_row(
            plain(each["at"][:19]),
            plain(each["tenant"] or "-"),
            target,
            plain(each["region"]),
            days(each["retention_days"]),
            str(each["bytes"]) if left else "-",
            _tokens(each),
            Text("left, outcome unknown" if outcome == UNKNOWN else plain(outcome), colour),
            money(_cost(each)),
        )
    return drawn


def sum_table(calls: Sequence[Record]) -> Table:
    """Return what left for each provider and region, money as far as it is known."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for each in calls:
        if each["left"]:
            cost = _cost(each)
            into = sums[each["provider"], each["region"]]
            for at, more in enumerate((1, each["bytes"], cost or 0, cost is None)):
                into[at] += more
    drawn = table("provider", "region", "#calls", "#bytes", "#cost", "#of unknown cost")
    for (provider, region), (count, size, cost, unknown) in sorted(sums.items()):
        drawn.add_row(plain(provider), plain(region), str(count), str(size), money(cost), str(unknown or "-"))
    return drawn


def _cost(record: Record) -> int | None:
    cost: int | None = record.get("cost_nano_usd", record.get("counted_nano_usd"))
    return cost


def _tokens(record: Record) -> str:
    pairs = (
        (record.get("prompt_tokens"), record.get("completion_tokens")),
        (record.get("counted_prompt_tokens"), record.get("counted_completion_tokens")),
    )
    return next((f"{prompt} + {answer}" for prompt, answer in pairs if None not in (prompt, answer)), "-")
