from __future__ import annotations

import json
from typing import Any

import pytest

from services.router.http import chat_answer, completion_answer
from services.router.http.answer import Chunks, usage_of
from spillway import v1

STARTED = v1.Started(request_id="r", model='m"x', target="t")
LOGPROB = v1.TokenLogprob(token="é", logprob=-0.5, top=[v1.TopLogprob(token="e", logprob=-1)])


def told(text: str) -> list[dict[str, Any]]:
    """The chunks of some events."""
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]


def chunks(kind: type[Any] = chat_answer.ChatChunks, *, include_usage: bool = False) -> Chunks:
    found: Chunks = kind("r", 1, include_usage=include_usage)
    found.begin(STARTED)
    return found


@pytest.mark.parametrize("text", ['say "hi"\n\\', "é\u2028\x00\ud7ff😀", ""])
def test_any_text_is_one_line_of_one_event(text: str) -> None:
    for kind in (chat_answer.ChatChunks, completion_answer.CompletionChunks):
        event = chunks(kind).delta(v1.Delta(choice=1, text=text))
        assert event.count("\n") == 2
        [chunk] = told(event)
        assert (chunk["id"].partition("-")[2], chunk["created"], chunk["model"]) == ("r", 1, 'm"x')
        [choice] = chunk["choices"]
        assert (choice["index"], choice["finish_reason"]) == (1, None)
        assert choice.get("delta", {"content": choice.get("text")})["content"] == text


def test_a_choice_names_its_role_once() -> None:
    stream = chunks()
    first, second = told(stream.delta(v1.Delta(text="a")) + stream.delta(v1.Delta(text="b")))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert second["choices"][0]["delta"] == {"content": "b"}
    finishes = [
        v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP),
        v1.ChoiceFinish(choice=1, reason=v1.FINISH_REASON_LENGTH),
    ]
    ends = told(stream.finish(v1.Finished(choices=finishes)))
    assert [(end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) for end in ends] == [
        ({}, "stop"),
        ({"role": "assistant"}, "length"),
    ]


def test_tool_calls_reasoning_and_logprobs_are_told() -> None:
    stream = chunks()
    deltas = [
        v1.Delta(tool_calls=[v1.ToolCallDelta(index=1, id="c", name="f")]),
        v1.Delta(tool_calls=[v1.ToolCallDelta(index=1, arguments='{"a')]),
        v1.Delta(reasoning="hm"),
        v1.Delta(text="é", logprobs=[LOGPROB]),
        v1.Delta(logprobs=[LOGPROB]),
        v1.Delta(provider_state=v1.ProviderState(wire="gemini", state=b"\x00\x01\x02")),
    ]
    found = [chunk["choices"][0] for chunk in told("".join(map(stream.delta, deltas)))]
    function: dict[str, Any] = {"arguments": "", "name": "f"}
    assert found[0]["delta"] == {
        "role": "assistant",
        "tool_calls": [{"index": 1, "id": "c", "type": "function", "function": function}],
    }
    assert found[1]["delta"] == {"tool_calls": [{"index": 1, "function": {"arguments": '{"a'}}]}
    assert found[2]["delta"] == {"reasoning_content": "hm"}
    assert found[3]["delta"] == {"content": "é"}
    assert found[4]["delta"] == {}
    assert found[5]["delta"] == {"provider_state": {"wire": "gemini", "state": "AAEC"}}
    assert found[4]["logprobs"]["content"] == [
        {
            "token": "é",
            "logprob": -0.5,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "e", "logprob": -1, "bytes": [101]}],
        }
    ]


def test_logprobs_of_a_completion_say_where_each_token_begins() -> None:
    stream = chunks(completion_answer.CompletionChunks)
    deltas = [v1.Delta(text="éé", logprobs=[LOGPROB, LOGPROB]), v1.Delta(text="é", logprobs=[LOGPROB])]
    found = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in told("".join(map(stream.delta, deltas)))]
    assert found == [[0, 1], [2]]


def test_tokens_read_from_and_written_to_a_cache_are_told() -> None:
    usage = v1.Usage(prompt_tokens=9, completion_tokens=3, cached_prompt_tokens=4, cache_write_prompt_tokens=2)
    found = usage_of(usage)
    assert found is not None
    assert found["prompt_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 2}


def test_unknown_is_not_zero() -> None:
    assert usage_of(v1.Usage(completion_tokens=3)) is None
    assert usage_of(v1.Usage(prompt_tokens=0, completion_tokens=3)) == {
        "prompt_tokens": 0,
        "completion_tokens": 3,
        "total_tokens": 3,
    }
    assert told(chunks(include_usage=True).usage(v1.Usage(completion_tokens=3)))[0]["usage"] is None
    assert chunks().usage(v1.Usage(completion_tokens=3)) == ""
