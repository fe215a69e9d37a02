"""By which name a runtime knows the model that is wanted."""

from __future__ import annotations

import pytest

from services.local_engine.runtime_model import listing, resolved
from spillway.errors import TargetDown, TargetModelMissing
from spillway.settings import SettingsError


def test_the_only_model_needs_no_name() -> None:
    assert resolved(None, ["the-one"], "llama-cpp") == "the-one"


def test_of_several_one_must_be_named() -> None:
    with pytest.raises(SettingsError, match="name one of a, b"):
        resolved(None, ["a", "b"], "ollama")


def test_a_tag_that_is_left_out_is_the_latest() -> None:
    assert resolved("llama3", ["llama3:latest", "llama3:8b"], "ollama") == "llama3:latest"
    assert resolved("llama3:8b", ["llama3:latest", "llama3:8b"], "ollama") == "llama3:8b"


@pytest.mark.parametrize("listed", [[], ["another"]])
def test_a_model_that_is_missing_may_still_come(listed: list[str]) -> None:
    with pytest.raises(TargetModelMissing, match="has no model 'wanted'"):
        resolved("wanted", listed, "ollama")


def test_a_runtime_without_a_model_may_still_load_one() -> None:
    with pytest.raises(TargetModelMissing, match="load one there"):
        resolved(None, [], "llama-cpp")


@pytest.mark.parametrize("told", [None, "models", {"data": None}, {"data": "x"}, 7])
def test_a_list_that_is_none_is_no_runtime(told: object) -> None:
    with pytest.raises(TargetDown, match="does not list"):
        listing(told, "it")


def test_cards_without_a_name_are_read_over() -> None:
    assert listing({"data": [{"id": "a", "x": 1}, {}, 7]}, "it") == [("a", {"id": "a", "x": 1})]
