"""An entry: what is kept of an answer, and what makes it one that is not there."""

from __future__ import annotations

import pytest

from services.router.cache_entry import decode, encode, retold
from spillway import v1

ANSWER = v1.GenerateResponse(
    started=v1.Started(request_id="mine", model="m", target="local", route_reason="local first"),
    choices=[v1.Choice(content=v1.Delta(text="hello"), finish=v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP))],
    usage=v1.Usage(prompt_tokens=3, timings=v1.Timings(total_ms=9), attempts=[v1.Attempt(target="local")]),
)
KEPT = encode("key", ANSWER, 1000.0)


def test_an_entry_holds_the_answer_without_what_belongs_to_its_request() -> None:
    entry = decode("key", KEPT, 1012.5, 60)
    assert entry is not None
    assert (entry.age_s, entry.answer.choices[0].content.text, entry.answer.started.target) == (12.5, "hello", "local")
    assert entry.answer.started.request_id == ""
    assert not entry.answer.usage.attempts and not entry.answer.usage.HasField("timings")


@pytest.mark.parametrize(
    ("key", "value", "now"),
    [
        ("key", b"", 1000),
        ("key", b"not an entry at all, but long enough", 1000),
        ("key", KEPT[:-1], 1000),
        ("key", KEPT + b"\0", 1000),
        ("key", KEPT[:20] + bytes([KEPT[20] ^ 1]) + KEPT[21:], 1000),
        ("another key", KEPT, 1000),
        ("key", KEPT, 1060),
    ],
    ids=["empty", "foreign", "cut", "longer", "younger than it is", "another's", "expired"],
)
def test_what_cannot_be_trusted_is_not_there(key: str, value: bytes, now: float) -> None:
    assert decode(key, value, now, 60) is None


def test_a_clock_that_is_behind_makes_an_entry_new() -> None:
    entry = decode("key", KEPT, 990.0, 60)
    assert entry is not None and entry.age_s == 0


def test_unknown_savings_are_absent() -> None:
    told = retold(v1.GenerationEvent(sequence=4, usage=ANSWER.usage), "r", age_s=2, shared=False, took_ms=1)
    hit = told.usage.cache
    assert (told.sequence, hit.age_ms, hit.saved_prompt_tokens) == (4, 2000, 3)
    assert not hit.HasField("saved_completion_tokens") and not hit.HasField("saved_nano_usd")
    assert told.usage.HasField("cost_nano_usd") and told.usage.cost_nano_usd == 0
    assert not told.usage.attempts
