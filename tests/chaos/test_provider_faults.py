"""What a provider can do wrong, and what the caller gets all the same. The table stands in docs/failover.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.router.leg import INSTRUCTION
from spillway.telemetry import names
from spillway.testing import openai_faults as faults
from spillway.testing.clock import HandClock
from spillway.testing.openai_faults import Faults, HttpFault, Status
from spillway.testing.openai_wire import content_text
from spillway.testing.waiting import eventually
from tests.chaos.rig import FALLBACK, PRIMARY, SHARE_S, Fallback, Rig, running
from tests.integration.cloud_proxy.rig import used

pytestmark = pytest.mark.chaos

DOCUMENT = Path(__file__).parents[2] / "docs" / "failover.md"
DOORS = ("grpc", "http")
WHOLE, OTHER = "the primary's answer", "the fallback's answer"
CUT, FILTERED = "STREAM_INTERRUPTED", "CONTENT_FILTERED"
DELIVERIES = {
    "LIVE": ("live", 8),
    "PROBED": ("probed", 8),
    "PROBED over it": ("probed", 64),
    "COMMITTED": ("committed", 8),
}
"""Column of the table -> delivery mode and tokens held in it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, or one after the other; what is told in LIVE, in PROBED with a probe of 8 and of 64, in COMMITTED."""

    fault: str
    script: tuple[HttpFault, ...]
    attempts: tuple[int, int]
    """At the primary and at the fallback, where nothing was given to the caller before the fault."""
    live: str
    probed: str
    beyond: str
    committed: str
    once: bool = False
    share_s: float = SHARE_S

    @property
    def told(self) -> dict[str, str]:
        return dict(zip(DELIVERIES, (self.live, self.probed, self.beyond, self.committed), strict=True))


def before(
    fault: str,
    told: str,
    attempts: tuple[int, int],
    *script: HttpFault,
    once: bool = False,
    share_s: float = SHARE_S,
) -> Row:
    """A fault before the first token: every delivery mode gets the same."""
    return Row(fault, script, attempts, told, told, told, told, once, share_s)


ROWS = (
    before("429", OTHER, (1, 1), faults.rate_limited()),
    before("429 with Retry-After", OTHER, (1, 1), faults.rate_limited(20)),
    before("500 once", WHOLE, (2, 0), Status(500, type="server_error"), once=True),
    before("503 always", OTHER, (2, 1), faults.overloaded()),
    before("503 with Retry-After", OTHER, (1, 1), faults.overloaded(20)),
    before("404 under load", OTHER, (1, 1), Status(404, "model_not_found")),
    before("reset before headers", OTHER, (2, 1), faults.Reset()),
    before("silence", OTHER, (1, 1), faults.Silence(), share_s=0.3),
    before("first token after 20 s of 30", OTHER, (1, 1), faults.SlowFirst(20), share_s=0.3),
    before("missing [DONE]", WHOLE, (1, 0), faults.MissingDone()),
    before("context_length_exceeded", OTHER, (1, 1), faults.context_length_exceeded()),
    before("content_policy_violation", FILTERED, (1, 0), faults.content_policy_violation()),
    Row("cut after 4 of 60 tokens", (faults.Cut(4),), (2, 1), CUT, OTHER, OTHER, OTHER),
    Row("cut after 40 of 60 tokens", (faults.Cut(40),), (2, 1), CUT, CUT, OTHER, OTHER),
    Row("stall after 40 of 60 tokens", (faults.Stall(40),), (1, 1), CUT, CUT, OTHER, OTHER),
    Row("malformed chunk after 40 tokens", (faults.Malformed(40),), (2, 1), CUT, CUT, OTHER, OTHER),
    Row("error in a 200 stream after 40 tokens", (faults.ErrorInStream(40),), (2, 1), CUT, CUT, OTHER, OTHER),
)


def going_on(body: Mapping[str, Any]) -> str:
    """What a fallback says that does as it is told: it repeats the last words and goes on."""
    asked = content_text(body["messages"][-1]["content"])
    if not asked.startswith(INSTRUCTION):
        return FALLBACK
    return PRIMARY[PRIMARY.index(asked.removeprefix(INSTRUCTION)) :]


FALLBACKS = {
    "words its answer differently": (Fallback(), CUT),
    "repeats the last words, as it is asked to": (Fallback(going_on), WHOLE),
    "starts over with the same words": (Fallback(lambda body: PRIMARY), WHOLE),
    "takes a prefill": (Fallback(lambda body: PRIMARY, "plain", True), WHOLE),
    "is declared to take a prefill and rejects it": (Fallback(going_on, "plain"), CUT),
}
"""What the fallback does where policy lets any model go on -> what is told of a live stream that was cut."""


def script(row: Row) -> Faults:
    return Faults(*row.script) if row.once else Faults(always=row.script[0])


async def nothing_is_left(rig: Rig) -> None:
    """Every attempt that reached a provider is accounted once, and no work, reservation or span is open."""
    await eventually(lambda: not rig.running)
    asked = len(rig.primary.seen) + len(rig.fallback.seen)
    await eventually(lambda: len(rig.kept) == asked and all(attempt.settled for attempt in rig.kept))

    def told() -> list[str]:
        rig.tracing.flush()
        return [span.name for span in rig.exporter.get_finished_spans()]

    await eventually(lambda: told().count(names.ATTEMPT) == asked == told().count(names.PROVIDER_REQUEST))
    for name, simulator in (("primary", rig.primary), ("fallback", rig.fallback)):
        requests, tokens = await used(rig.proxy, name)  # an attempt is settled as soon as it is told
        assert requests == len(simulator.seen)
        # A reservation that was never settled would still hold its 1,024 tokens for the answer.
        assert tokens <= 500 * len(simulator.seen)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("row", "column"),
    [
        pytest.param(row, column, id=f"{row.fault}-{column}")
        for row in ROWS
        for column in DELIVERIES
        if row.probed != row.beyond or column != "PROBED over it"
    ],
)
async def test_a_fault_ends_in_a_whole_answer_or_an_honest_error(valkey: str, row: Row, column: str, door: str) -> None:
    delivery, probe_tokens = DELIVERIES[column]
    async with running(script(row), valkey, share_s=row.share_s) as rig:
        told = await rig.ask(door, delivery, probe_tokens=probe_tokens)
        assert told.summary == row.told[column]
        attempts = (1, 0) if told.error == CUT else row.attempts
        assert (len(rig.primary.seen), len(rig.fallback.seen)) == attempts
        await nothing_is_left(rig)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "fault", [faults.Cut(40), faults.Stall(40), faults.Malformed(40), faults.ErrorInStream(40)], ids=repr
)
@pytest.mark.parametrize("fallback", FALLBACKS)
async def test_where_any_model_may_go_on_a_cut_ends_in_a_whole_answer_or_an_honest_error(
    valkey: str, fallback: str, fault: HttpFault, door: str
) -> None:
    how, expected = FALLBACKS[fallback]
    async with running(Faults(always=fault), valkey, fallback_is=how, continue_on="any_model") as rig:
        told = await rig.ask(door, "live")
        assert told.summary == expected
        assert PRIMARY.startswith(told.text)
        assert (len(rig.primary.seen), len(rig.fallback.seen)) == (1, 1)
        await nothing_is_left(rig)


async def test_a_live_stream_that_may_restart_does_so_without_words_put_in_the_fallbacks_mouth(
    valkey: str,
) -> None:
    async with running(Faults(always=faults.Cut(40)), valkey) as rig:
        told = await rig.ask("grpc", "live", restart=True)
        assert (told.text, told.restarted) == (FALLBACK, True)
        assert [seen.body["messages"][-1]["role"] for seen in rig.fallback.seen] == ["user"]
        await nothing_is_left(rig)


@pytest.mark.parametrize("door", DOORS)
async def test_a_primary_down_for_a_minute_is_hardly_asked_and_soon_used_again(valkey: str, door: str) -> None:
    clock = HandClock()
    async with running(Faults(always=faults.Reset()), valkey, clock=clock) as rig:
        dead, used_again_s = 0, None
        for at in range(0, 80, 4):
            if at == 60:
                dead, rig.primary.faults = len(rig.primary.seen), Faults()
            told = await rig.ask(door, "probed")
            assert told.summary in (WHOLE, OTHER)
            if told.summary == WHOLE and used_again_s is None:
                used_again_s = at - 60
            clock.advance(4)
        assert dead <= 4
        assert used_again_s is not None
        assert used_again_s <= 30
        await nothing_is_left(rig)


async def test_an_attempt_that_failed_is_accounted_with_what_it_said(valkey: str) -> None:
    async with running(Faults(always=faults.Cut(40)), valkey) as rig:
        assert (await rig.ask("grpc", "committed")).summary == OTHER
        assert rig.outcomes() == ["primary:TARGET_DOWN", "primary:TARGET_DOWN", "fallback:"]
        assert [attempt.number for attempt in rig.kept] == [1, 2, 3]
        assert rig.kept[-1].record.completion_tokens == 60
        await nothing_is_left(rig)


def test_the_documented_table_is_the_tested_one() -> None:
    assert table() in DOCUMENT.read_text()
    assert crossings() in DOCUMENT.read_text()


def table() -> str:
    """The rows as docs/failover.md has them."""
    lines = [
        "| fault | asks primary, fallback | LIVE | PROBED, after the probe | PROBED, within it | COMMITTED |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        told = " | ".join(row.told.values())
        lines.append(f"| {row.fault} | {row.attempts[0]}, {row.attempts[1]} | {told} |")
    return "\n".join(lines) + "\n"


def crossings() -> str:
    """What the fallbacks do, as docs/failover.md has it."""
    lines = ["| the fallback | LIVE, cut after 40 of 60 tokens, `continue_on: any_model` |", "|---|---|"]
    return "\n".join([*lines, *(f"| {does} | {told} |" for does, (_, told) in FALLBACKS.items())]) + "\n"
