"""A prompt that was counted is not tokenized again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.local_engine.tokenization import LONG_PROMPT_BYTES, Counted, Tokenization, digest
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid


class Letters:
    """A tokenizer whose tokens are code points; it counts how often it is asked."""

    asked: list[int] = []  # noqa: RUF012 - shared, for it is copied

    def encode(self, text: str, *, add_special_tokens: bool = True, **options: Any) -> list[int]:
        self.asked.append(len(text))
        return [ord(char) for char in text]

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return "".join(message["content"] for message in messages)


@pytest.fixture
def prompts() -> Iterator[Tokenization]:
    Letters.asked.clear()
    with ThreadPoolExecutor(1) as executor:
        yield Tokenization(Letters(), executor, 1000, None)


def text(said: str, **fields: Any) -> v1.GenerationSpec:
    return v1.GenerationSpec(text=v1.TextPrompt(text=said), **fields)


@pytest.mark.parametrize("size", [3, LONG_PROMPT_BYTES + 1])
async def test_a_prompt_that_is_counted_again_and_then_answered_is_tokenized_once(
    prompts: Tokenization, size: int
) -> None:
    spec = text("a" * size, request_id="first", sampling=v1.Sampling(max_tokens=1))
    again = text("a" * size, request_id="second", session_id="s", priority=v1.PRIORITY_BACKGROUND, model="m")
    assert [await prompts.count(spec), await prompts.count(again)] == [size, size]
    assert await prompts.tokens(again) == [97] * size
    assert Letters.asked == [size]


async def test_ids_go_out_with_the_answer_and_the_count_stays(prompts: Tokenization) -> None:
    await prompts.count(text("abc"))
    await prompts.tokens(text("abc"))
    assert await prompts.count(text("abc")) == 3
    assert Letters.asked == [3]
    assert await prompts.tokens(text("abc")) == [97, 98, 99]
    assert Letters.asked == [3, 3]


def test_what_an_image_shows_changes_no_digest_but_where_it_stands_does() -> None:
    def seen(*datas: bytes) -> v1.GenerationSpec:
        parts = [v1.Part(image=v1.Image(data=data)) if data else v1.Part(text="a") for data in datas]
        return v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=parts)]))

    assert digest(seen(b"1", b"")) == digest(seen(b"2", b"")) != digest(seen(b"", b"1"))
    assert digest(seen(b"")) != digest(seen(b"1", b""))


async def test_ids_are_counted_as_they_are_answered(prompts: Tokenization) -> None:
    spec = v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1]), tools=[v1.Tool(name="f")])
    for ask in (prompts.tokens, prompts.count):
        with pytest.raises(ConstraintUnsupported, match=r"spec\.tools"):
            await ask(spec)


async def test_a_callers_own_ids_are_checked_and_not_kept(prompts: Tokenization) -> None:
    assert await prompts.count(v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1, 2]))) == 2
    with pytest.raises(RequestInvalid, match=r"spec\.tokens\.ids"):
        await prompts.count(v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1000])))


async def test_a_prompt_that_is_refused_is_refused_again(prompts: Tokenization) -> None:
    spec = v1.GenerationSpec(text=v1.TextPrompt(text="a", suffix="b"))
    for _ in range(2):
        with pytest.raises(RequestInvalid):
            await prompts.count(spec)


@pytest.mark.parametrize(
    "other",
    [
        text("ab "),
        v1.GenerationSpec(text=v1.TextPrompt(text="ab", suffix="")),
        v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="ab")])])),
        text("ab", continuation=v1.Continuation(text="c")),
        text("ab", tools=[v1.Tool(name="t")]),
        text("ab", reasoning_effort=v1.REASONING_EFFORT_LOW),
        text("ab", adapter="x"),
    ],
)
def test_what_may_change_the_tokens_is_another_prompt(other: v1.GenerationSpec) -> None:
    assert digest(text("ab")) != digest(other)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    kept = Counted(counts=3, tokens=10)
    for name in (b"a", b"b", b"c", b"d"):
        kept.put(name, [1] * 4)
    assert kept.count(b"a") is None
    assert [kept.count(name) for name in (b"b", b"c", b"d")] == [4, 4, 4]
    assert (kept.take(b"b"), kept.take(b"d"), len(kept)) == (None, [1] * 4, 1)
    kept.put(b"large", [1] * 11)
    assert (kept.count(b"large"), len(kept)) == (11, 0)


def test_what_is_put_again_is_kept_once() -> None:
    kept = Counted(tokens=8)
    for _ in range(3):
        kept.put(b"a", [1] * 4)
    assert repr(kept) == "<Counted 1 prompts, 4 ids>"
