"""An answer goes on after a cut as if there had been none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.local_engine.decoding import decoding
from services.local_engine.resumption import EARLIER, Resumption, continued, require
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "it"]


def spec(done: int, text: str = "", **fields: Any) -> v1.GenerationSpec:
    continuation = v1.Continuation(token_ids=range(done), text=text)
    return v1.GenerationSpec(text=v1.TextPrompt(text="go"), continuation=continuation, **fields)


def resumption(asked: v1.GenerationSpec) -> Resumption:
    return Resumption(asked, lambda token_id: WORDS[token_id] + " ")


def fed(resumed: Resumption, *ids: int, finish: str | None = None) -> tuple[str, str | None, str | int | None]:
    piece = resumed.piece(SimpleNamespace(token_ids=ids, logprobs=None, finish_reason=finish, stop_reason=None))
    return piece.text, piece.finish_reason, piece.stop_reason


def test_only_what_the_caller_lacks_is_said() -> None:
    resumed = resumption(spec(3, "the quick brown "))
    assert fed(resumed, 3) == ("fox ", None, None)
    assert fed(resumed, 4, 5, finish="length") == ("jumps over ", "length", None)


def test_text_that_was_held_back_at_the_cut_comes_first() -> None:
    assert fed(resumption(spec(3, "the quick ")), 3) == ("brown fox ", None, None)


def test_a_stop_string_that_spans_the_cut_is_seen() -> None:
    resumed = resumption(spec(3, "the quick b", stop=v1.Stop(strings=["brown fox"])))
    assert fed(resumed, 3, 4) == ("", "stop", "brown fox")
    kept = resumption(spec(3, "the quick brown ", stop=v1.Stop(strings=["brown fox"], include_stop=True)))
    assert fed(kept, 3, 4) == ("fox", "stop", "brown fox")


def test_text_that_may_be_the_beginning_of_a_stop_string_is_held_back() -> None:
    resumed = resumption(spec(1, "the ", stop=v1.Stop(strings=["fox jumps"])))
    assert fed(resumed, 1) == ("", None, None)
    assert fed(resumed, 2) == ("quic", None, None)
    assert fed(resumed, 3, finish="length") == ("k brown fox ", "length", None)


def test_no_stop_string_counts_before_the_least_number_of_tokens() -> None:
    asked = spec(2, "the quick ", stop=v1.Stop(strings=["brown"]), sampling=v1.Sampling(min_tokens=4))
    assert fed(resumption(asked), 2, 3, 4)[1] is None


@pytest.mark.parametrize(
    ("asked", "ended"),
    [
        (spec(3, "the quick "), None),
        (spec(3, "the quick ", stop=v1.Stop(strings=["brown"])), ("", "stop", "brown")),
        (spec(3, "the quick ", stop=v1.Stop(token_ids=[2])), ("brown ", "stop", 2)),
        (spec(7, "", stop=v1.Stop(ignore_eos=True)), None),
        (spec(7, ""), ("the quick brown fox jumps over it ", "stop", None)),
        (spec(5, "the quick brown fox "), ("jumps ", "length", None)),
    ],
)
def test_an_answer_that_had_ended_needs_no_engine(
    asked: v1.GenerationSpec, ended: tuple[str, str, str | int | None] | None
) -> None:
    limit = 5 if len(asked.continuation.token_ids) == 5 else 100
    piece = resumption(asked).ended(asked, frozenset({6}), limit)
    assert (piece and (piece.text, piece.finish_reason, piece.stop_reason)) == ended


def test_text_that_is_not_what_the_tokens_say_is_refused() -> None:
    with pytest.raises(RequestInvalid, match=r"spec\.continuation\.text: is not what these tokens say"):
        resumption(spec(2, "another answer"))


def test_limits_count_what_is_there_already() -> None:
    asked = spec(3, sampling=v1.Sampling(max_tokens=10, min_tokens=5), stop=v1.Stop(strings=["x"]))
    rest = continued(decoding(asked, room=100, max_tokens=None, defaults={}), [1, 2, 3], penalties=False)
    assert (rest.arguments["max_tokens"], rest.arguments["min_tokens"]) == (7, 2)
    assert "stop" not in rest.arguments


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (spec(1, constraint=v1.OutputConstraint(json_object=True)), "spec.constraint"),
        (spec(1, sampling=v1.Sampling(n=2)), "spec.sampling.n"),
        (spec(0), "spec.continuation.token_ids"),
        (
            v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1]), continuation=v1.Continuation(text="a")),
            "spec.continuation.text",
        ),
        (spec(0, "a", constraint=v1.OutputConstraint(json_object=True)), "spec.constraint"),
        (spec(1, sampling=v1.Sampling(presence_penalty=1)), "spec.sampling.presence_penalty"),
        (spec(1, sampling=v1.Sampling(frequency_penalty=1)), "spec.sampling.frequency_penalty"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_field(asked: v1.GenerationSpec, field: str) -> None:
    with pytest.raises((RequestInvalid, ConstraintUnsupported)) as refused:
        require(asked)
        continued(decoding(asked, room=100, max_tokens=None, defaults={}), [1], penalties=False)
    assert refused.value.fields[0].field == field


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_an_engine_that_can_be_told_of_earlier_tokens_penalises_them(name: str) -> None:
    asked = spec(3, sampling=v1.Sampling(max_tokens=10))
    setattr(asked.sampling, name, 0.5)
    rest = continued(decoding(asked, room=100, max_tokens=None, defaults={}), [4, 5, 4], penalties=True)
    assert rest.arguments["extra_args"] == {EARLIER: [4, 5, 4]}
    assert rest.arguments[name] == 0.5
