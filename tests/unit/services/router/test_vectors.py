"""Which model embeds is never chance."""

from __future__ import annotations

import pytest

from services.router.facts import Facts
from services.router.policy import Policy
from services.router.target import Target
from services.router.vectors import comparable, require_one_model
from spillway.egress import DataPolicy, Residency
from spillway.errors import RequestInvalid

EMBEDS = frozenset({"embeddings"})


def target(name: str, model: str = "", weights: str = "", kind: str = "local") -> Target:
    return Target(name, kind, "-", model=model, weights=weights, capabilities=EMBEDS)


def facts(model: str = "", **more: object) -> Facts:
    return Facts(model=model, needs=EMBEDS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (target("a", "bge"), target("b", "bge"), True),
        (target("a", "bge"), target("b", "e5"), False),
        (target("a", "bge", "w"), target("b", "cloud/bge", "w"), True),
        (target("a", "bge", "w"), target("b", "cloud/bge"), False),
        (target("a"), target("b"), False),
        (target("a"), target("a"), True),
    ],
)
def test_vectors_compare_where_model_or_weights_are_the_same(one: Target, other: Target, expected: bool) -> None:
    assert comparable(one, other) is comparable(other, one) is expected


TWO = [target("here", "bge"), target("there", "openai/large", kind="cloud")]


@pytest.mark.parametrize(
    "asked",
    [facts(), facts(data_policy=DataPolicy(Residency.LOCAL_ONLY)), facts(max_cost_nano_usd=1)],
    ids=["nothing", "where", "for how much"],
)
@pytest.mark.parametrize("policy", [Policy(), Policy(order=("local",))], ids=["no order", "an order"])
def test_a_request_that_leaves_the_model_open_is_refused_whatever_else_it_says(asked: Facts, policy: Policy) -> None:
    with pytest.raises(RequestInvalid, match=r"here \(bge\), there \(openai/large\)") as refusal:
        require_one_model(asked, policy, TWO)
    assert [found.field for found in refusal.value.fields] == ["spec.model"]


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        (facts("bge"), Policy()),
        (facts("there"), Policy()),
        (facts(allowed=frozenset({"here"})), Policy()),
        (facts(denied=frozenset({"here"})), Policy()),
        (facts(), Policy(mixes_vectors=True)),
        (Facts(), Policy()),
    ],
    ids=["model", "target", "allowed", "denied", "any model", "a generation"],
)
def test_it_is_served_where_something_that_lasts_says_which(asked: Facts, policy: Policy) -> None:
    require_one_model(asked, policy, TWO)


def test_where_nothing_embeds_there_is_nothing_to_choose() -> None:
    require_one_model(facts(), Policy(), [])
