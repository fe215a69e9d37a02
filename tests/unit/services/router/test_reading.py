"""What policy is told of an embedding."""

from __future__ import annotations

import pytest

from services.router.counting import worth_counting
from services.router.facts import Facts
from services.router.policy import Policy, estimate
from services.router.reading import countable, read_facts, recounted
from services.router.target import Price, Target
from spillway import v1
from spillway.egress import DataPolicy


def asked(*inputs: str | list[int]) -> v1.EmbeddingSpec:
    told = [
        v1.EmbeddingInput(text=one) if isinstance(one, str) else v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=one))
        for one in inputs
    ]
    return v1.EmbeddingSpec(inputs=told)


def facts(*inputs: str | list[int]) -> Facts:
    return read_facts(asked(*inputs), v1.RoutingPolicy(), DataPolicy(), "t")


@pytest.mark.parametrize(
    ("inputs", "longest", "beside"),
    [
        (("abc" * 10, "abc"), 10, 1),
        (([1, 2, 3], [4]), 3, 1),
        (("abc", [1, 2, 3]), 3, 1),
        (("abcabc", [1]), 2, 1),
    ],
)
def test_the_longest_input_needs_the_room_and_all_of_them_cost(
    inputs: tuple[str | list[int], ...], longest: int, beside: int
) -> None:
    found = facts(*inputs)
    assert (found.prompt_tokens, found.beside_tokens) == (longest, beside)
    dear = Target("t", "cloud", "-", capabilities=frozenset({"embeddings"}), price=Price(10, 1000))
    assert estimate(found, dear) == 10 * (longest + beside)


def test_tokens_need_a_target_that_takes_them_and_are_counted_already() -> None:
    assert facts("a").needs == {"embeddings"}
    assert facts("a", [1]).needs == {"embeddings", "token_input"}
    assert (facts([1, 2]).counted_tokens, facts("a", [1, 2]).counted_tokens) == (2, None)


def test_the_longest_text_is_counted_where_it_may_not_fit_an_embedder_and_only_there() -> None:
    near = Target("n", "local", "-", context_window=100, capabilities=frozenset({"embeddings"}))
    chat = Target("c", "local", "-", context_window=10)
    policy = Policy(local_context_limit=1)
    assert not worth_counting(facts("a" * 30), [near, chat], policy)
    assert worth_counting(facts("a" * 60), [near, chat], policy)
    assert not worth_counting(facts("a" * 60), [chat], policy)
    assert countable(asked("a", "bcd", "ef")).text.text == "bcd"
    assert countable(asked("abcd", "見積書")).text.text == "見積書"  # 9 bytes


def test_a_count_of_the_longest_text_never_hides_tokens_that_are_more() -> None:
    assert recounted(asked("abc", [1] * 9), 2) == 9
    assert recounted(asked("abc", [1]), 2) == 2
    assert recounted(v1.GenerationSpec(text=v1.TextPrompt(text="abc")), 2) == 2
