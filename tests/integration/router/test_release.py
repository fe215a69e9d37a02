"""What is given of an answer, held to what the validator says of it: together they are its JSON, however it comes."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from services.router.journal import Attempt
from services.router.release import Release
from services.router.target import Target
from services.validator.judgement import Judge
from services.validator.messages import message
from services.validator.settings import JudgementSettings
from services.validator.verdict import Answer, Constraint
from spillway import v1

ROW = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
ROWS = {"type": "array", "items": {"anyOf": [ROW, {"type": ["string", "integer"]}]}}
FORM = {"properties": {"before": {"type": "string"}, "rows": ROWS}, "required": ["rows"]}
ITEMS: st.SearchStrategy[Any] = (
    st.builds(lambda a: {"a": a}, st.integers()) | st.integers() | st.text(max_size=5) | st.sampled_from([None, {}])
)
AROUND = st.sampled_from([("", ""), ("\n ", " "), ("```json\n", "\n```"), ("", " So much for that."), ("Look: ", "")])
NOISE = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(['"', ",", "]", "}", "[1]", "\\", "é", "x"])), max_size=2
)


async def given_of(constraint: Constraint, text: str, cuts: random.Random) -> tuple[list[str], str, v1.Verdict]:
    """What is given one by one of an answer that comes in pieces, what at its end, and the verdict."""
    judge, release = Judge(JudgementSettings()), Release()
    release.open(Attempt(Target("t", "local", ""), 1, 0.0, v1.Attempt()), lambda started: None)
    watch, at, early = judge.watch(constraint, records=True), 0, None
    while at < len(text) and early is None:
        piece = text[at : at + cuts.randint(1, 12)]
        at += len(piece)
        release.hear(v1.GenerationEvent(delta=v1.Delta(text=piece)))
        before = watch.records
        early = watch.take(piece)
        if watch.records != before:
            release.accept(0, watch.records[1])
    verdict = message(early or judge.judge(constraint, [Answer(text)], mend=True)[0])
    (verdict,) = release.held_to([verdict])
    whole = v1.Delta(text=verdict.accepted_json or text)
    rest = "".join(event.delta.text for event in release.rest([v1.GenerationEvent(delta=whole)]))
    release.end()
    return [event.delta.text async for event in release.events() if event.HasField("delta")], rest, verdict


@given(st.lists(ITEMS, max_size=6), AROUND, NOISE, st.booleans(), st.randoms(use_true_random=False))
@example([{"a": 1}, "x"], ("```json\n", "\n```"), [(20, ",")], False, random.Random(1))
async def test_what_is_given_of_an_accepted_answer_is_its_json(
    items: list[Any], around: tuple[str, str], noise: list[tuple[int, str]], root: bool, cuts: random.Random
) -> None:
    text = json.dumps(items if root else {"before": "[", "rows": items}, indent=cuts.choice([None, 1]))
    for at, what in noise:
        text = text[:at] + what + text[at:]
    constraint = Constraint("json_schema", json.dumps(ROWS if root else FORM), repair=cuts.random() < 0.5)
    pieces, rest, verdict = await given_of(constraint, around[0] + text + around[1], cuts)
    begun = "".join(pieces)
    if verdict.accepted_json:
        assert begun + rest == verdict.accepted_json
    for upto in range(1, len(pieces) + 1):  # whatever comes after it, what was given begins JSON
        json.loads("".join(pieces[:upto]) + ("]" if root else "]}"))
