"""From vLLM's outputs to events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from services.local_engine.answer import Answer, started
from services.local_engine.decoding import Guide
from spillway import v1
from spillway.errors import ConstraintUnsupported, TargetDown


@dataclass
class Piece:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class Likely:
    logprob: float
    rank: int | None
    decoded_token: str | None = None


def answered(*pieces: Piece, spec: v1.GenerationSpec | None = None, guide: Guide | None = None) -> Answer:
    answer = Answer(spec or v1.GenerationSpec(), guide)
    list(answer.deltas(pieces))
    return answer


def test_deltas_carry_what_is_new_and_nothing_is_sent_for_nothing() -> None:
    answer = Answer(v1.GenerationSpec(), None)
    deltas = list(answer.deltas([Piece(0, "ab", [1, 2]), Piece(1, "", [3]), Piece(2)]))
    assert deltas == [
        v1.Delta(choice=0, text="ab", token_ids=[1, 2], tokens=2),
        v1.Delta(choice=1, text="", token_ids=[3], tokens=1),
    ]
    assert answer.completion_tokens == 3


@pytest.mark.parametrize(
    ("finish", "stop", "expected"),
    [
        ("stop", None, v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)),
        ("stop", "\n", v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP_SEQUENCE, stop_string="\n")),
        ("stop", 7, v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP_SEQUENCE)),
        ("stop", 8, v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)),
        ("length", None, v1.ChoiceFinish(reason=v1.FINISH_REASON_LENGTH)),
    ],
)
def test_each_end_has_its_reason(finish: str, stop: int | str | None, expected: v1.ChoiceFinish) -> None:
    spec = v1.GenerationSpec(stop=v1.Stop(token_ids=[7]))
    answer = answered(Piece(finish_reason=finish, stop_reason=stop), spec=spec)
    assert answer.finished() == v1.Finished(choices=[expected])


def test_choices_finish_in_order_whichever_ends_first() -> None:
    answer = answered(Piece(1, finish_reason="stop"), Piece(0, finish_reason="length"))
    assert [finish.choice for finish in answer.finished().choices] == [0, 1]


def test_a_truncated_or_aborted_answer_is_never_a_success() -> None:
    with pytest.raises(TargetDown):
        answered(Piece(finish_reason="abort"))
    with pytest.raises(ConstraintUnsupported, match=r"spec\.constraint\.regex"):
        answered(Piece(finish_reason="error"), guide=Guide("regex", "a", "spec.constraint.regex"))


def test_logprobs_are_one_per_token_with_the_alternatives_asked_for() -> None:
    position = {5: Likely(-2.0, 3, "c"), 6: Likely(-0.5, 1, "a"), 7: Likely(-1.0, 2, "b")}
    spec = v1.GenerationSpec(logprobs=v1.Logprobs(top=2))
    (delta,) = Answer(spec, None).deltas([Piece(0, "c", [5], [position])])
    (found,) = delta.logprobs
    assert (found.token_id, found.token, found.logprob) == (5, "c", -2.0)
    assert [(other.token_id, other.token) for other in found.top] == [(6, "a"), (7, "b")]


def test_what_is_told_of_a_prompt_begins_with_its_second_token() -> None:
    positions = [None, {6: Likely(-2.0, 2, "b"), 9: Likely(-0.1, 1, "z")}, {7: Likely(-0.5, 1, "c")}]
    spec = v1.GenerationSpec(logprobs=v1.Logprobs(top=5, prompt=1))
    told = started(spec, [5, 6, 7], positions)
    assert told.prompt_tokens == 3
    assert [(one.token_id, one.token, one.logprob) for one in told.prompt_logprobs] == [(6, "b", -2.0), (7, "c", -0.5)]
    assert [[other.token for other in one.top] for one in told.prompt_logprobs] == [["z"], ["c"]]
    for nothing in (None, [], [None]):
        assert started(spec, [5], nothing) == v1.Started(prompt_tokens=1)


def test_logprobs_without_alternatives_tell_the_chosen_token_alone() -> None:
    spec = v1.GenerationSpec(logprobs=v1.Logprobs())
    (delta,) = Answer(spec, None).deltas([Piece(0, "c", [5], [{5: Likely(-2.0, 1, "c")}])])
    assert [list(found.top) for found in delta.logprobs] == [[]]
