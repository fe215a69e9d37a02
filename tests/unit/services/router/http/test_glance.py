"""What is read off a delta's bytes is what a message of them says, and what has more to it is left to be parsed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.http.glance import plain_text
from spillway import v1

NUMBERS = st.sampled_from([0, 1, 127, 128, 300, 2**31]) | st.integers(0, 2**32 - 1)
TEXTS = st.text(max_size=40) | st.sampled_from(["", " word", "\u00e9", "x" * 119, "x" * 127, "x" * 128, "x" * 5000])
DELTAS = st.builds(
    v1.Delta,
    choice=st.sampled_from([0, 0, 0, 1]),
    text=TEXTS,
    reasoning=st.sampled_from(["", "", "", "hm"]),
    token_ids=st.lists(NUMBERS, max_size=60),
    tokens=st.none() | NUMBERS,
    logprobs=st.sampled_from([[], [], [], [v1.TokenLogprob(token="a", logprob=-1)]]),
    tool_calls=st.sampled_from([[], [], [], [v1.ToolCallDelta(index=0, arguments="{")]]),
    provider_state=st.sampled_from([None, None, None, v1.ProviderState(wire="w", state=b"8\x01")]),
)
EVENTS = st.builds(v1.GenerationEvent, sequence=NUMBERS, delta=DELTAS)


@given(EVENTS)
def test_a_text_is_read_as_it_is_parsed_and_only_where_there_is_nothing_else(event: v1.GenerationEvent) -> None:
    text = plain_text(event.SerializeToString())
    if text is not None:
        delta = event.delta
        assert delta == v1.Delta(text=text, token_ids=delta.token_ids, tokens=delta.tokens)


@given(EVENTS)
def test_a_part_of_an_event_is_never_taken_for_one(event: v1.GenerationEvent) -> None:
    raw = event.SerializeToString()
    assert {plain_text(raw[:end]) for end in range(min(len(raw), 300))} <= {None}


@pytest.mark.parametrize("sequence", [0, 1, 127, 128, 2**40])
@pytest.mark.parametrize("ids", [[], [7], [200_000] * 4])
def test_a_token_of_text_is_read_at_a_glance(sequence: int, ids: list[int]) -> None:
    event = v1.GenerationEvent(sequence=sequence, delta=v1.Delta(text=" w\u00f6rd", token_ids=ids, tokens=1))
    assert plain_text(event.SerializeToString()) == " w\u00f6rd"


@pytest.mark.parametrize(
    "event",
    [
        v1.GenerationEvent(sequence=1, usage=v1.Usage(prompt_tokens=1)),
        v1.GenerationEvent(started=v1.Started(model="a")),
        v1.GenerationEvent(),
        v1.GenerationEvent(delta=v1.Delta(tokens=1)),
    ],
    ids=str,
)
def test_what_is_no_text_is_left_to_be_parsed(event: v1.GenerationEvent) -> None:
    assert plain_text(event.SerializeToString()) is None


def test_bytes_that_are_no_text_are_left_to_be_refused() -> None:
    raw = v1.GenerationEvent(delta=v1.Delta(text="\u00e9", tokens=1)).SerializeToString()
    assert plain_text(raw.replace("\u00e9".encode(), b"\xff\xff")) is None
