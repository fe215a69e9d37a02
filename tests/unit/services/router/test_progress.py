"""What of a live stream another target could go on with."""

from __future__ import annotations

import pytest

from services.router.leg import Leg
from services.router.progress import Progress
from services.router.target import Target
from spillway import v1
from spillway.rpc.lane import Lane

FIRST, SECOND = Target("t0", "local", "a:1", weights="w"), Target("t1", "local", "b:1", weights="w")


def legs(*deltas: v1.Delta, restarts: bool = False) -> list[Leg]:
    """What the second of two targets with the same weights can be asked after the first has given `deltas`."""
    progress = Progress(v1.GenerationSpec(), [FIRST, SECOND])
    (leg,) = progress.legs(FIRST, restarts=restarts)
    progress.begin(FIRST, leg)
    for delta in deltas:
        progress.take(v1.GenerationEvent(delta=delta))
    return list(progress.legs(SECOND, restarts=restarts))


def test_text_goes_on_after_its_tokens() -> None:
    (leg,) = legs(v1.Delta(text="ab", token_ids=[1, 2], tokens=2), v1.Delta(text="c", token_ids=[3], tokens=1))
    assert leg.goes_on
    assert leg.spec.continuation == v1.Continuation(token_ids=[1, 2, 3], text="abc")


@pytest.mark.parametrize(
    "other",
    [
        v1.Delta(reasoning="hm", token_ids=[3], tokens=1),
        v1.Delta(tool_calls=[v1.ToolCallDelta(name="clock")], token_ids=[3], tokens=1),
    ],
)
def test_reasoning_and_calls_begin_anew_or_not_at_all(other: v1.Delta) -> None:
    deltas = (v1.Delta(text="ab", token_ids=[1, 2], tokens=2), other, v1.Delta(text="c", token_ids=[4], tokens=1))
    assert legs(*deltas) == []
    (leg,) = legs(*deltas, restarts=True)
    assert not leg.goes_on
    assert not leg.spec.HasField("continuation")


def test_deltas_that_nothing_could_go_on_with_are_not_kept() -> None:
    progress = Progress(v1.GenerationSpec(), [FIRST, SECOND], lane=Lane(credit=9))
    (leg,) = progress.legs(FIRST, restarts=False)
    progress.begin(FIRST, leg)
    progress.lane.open = True
    progress.take(v1.GenerationEvent(delta=v1.Delta(text="a", tokens=1)))  # it does not tell its tokens
    assert progress.lane.take(v1.GenerationEvent(delta=v1.Delta(text="b", tokens=1)).SerializeToString(), 1)
    assert not progress.lane.kept
    assert progress.tokens == 2
