"""What vLLM is told follows from the settings, and is something it knows."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from services.local_engine.settings import LocalEngineSettings

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

ALL: dict[str, Any] = {
    "max_model_len": 512,
    "max_num_seqs": 8,
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "data_parallel_size": 2,
    "expert_parallel": True,
    "chunked_prefill": True,
    "kv_cache_dtype": "fp8",
    "speculation": {"method": "ngram", "tokens": 3},
    "adapters": {"folder": "adapters", "max_loaded": 3, "max_rank": 32},
}


def arguments(vllm: dict[str, Any], *, cpu: bool) -> dict[str, Any]:
    from services.local_engine.vllm_arguments import engine_arguments

    return engine_arguments(LocalEngineSettings.model_validate({"vllm": vllm}), cpu=cpu)


@pytest.mark.parametrize("cpu", [True, False])
def test_vllm_knows_every_argument(cpu: bool) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name for field in fields(AsyncEngineArgs)}
    assert arguments(ALL, cpu=cpu).keys() <= known
    assert arguments({}, cpu=cpu).keys() <= known


def test_a_model_that_pools_samples_nothing_and_may_read_its_context_in_one_piece() -> None:
    from services.local_engine.vllm_arguments import pooling

    told = pooling(arguments({"chunked_prefill": True, "prefix_caching": True}, cpu=True), 8192)
    left_to_vllm = {"enable_prefix_caching", "enable_chunked_prefill", "logits_processors", "speculative_config"}
    assert left_to_vllm.isdisjoint(told)
    assert told["max_num_batched_tokens"] == 8192
    assert pooling(arguments({"prefix_caching": False}, cpu=True), 512)["enable_prefix_caching"] is False
    assert pooling(arguments({}, cpu=False), 512)["max_num_batched_tokens"] == 4096


@pytest.mark.parametrize(("task", "runner"), [("auto", "auto"), ("generate", "generate"), ("embed", "pooling")])
def test_the_task_is_told_in_vllms_words(task: str, runner: str) -> None:
    assert arguments({"task": task}, cpu=True)["runner"] == runner


def test_what_is_set_is_passed_on_and_what_is_absent_is_left_to_vllm() -> None:
    told = arguments(ALL, cpu=False)
    assert told["enable_expert_parallel"] is told["enable_chunked_prefill"] is True
    assert [told[f"{kind}_parallel_size"] for kind in ("tensor", "pipeline", "data")] == [2, 2, 2]
    assert (told["kv_cache_dtype"], told["max_model_len"], told["max_num_seqs"]) == ("fp8", 512, 8)
    assert {"max_model_len", "max_num_seqs", "enable_chunked_prefill", "speculative_config"}.isdisjoint(
        arguments({}, cpu=False)
    )


def test_adapters_have_a_slot_each_and_on_a_cpu_one_more_that_stays_empty() -> None:
    for cpu, slots in ((False, 3), (True, 4)):
        told = arguments(ALL, cpu=cpu)
        assert told["enable_lora"] is True
        assert (told["max_loras"], told["max_cpu_loras"], told["max_lora_rank"]) == (slots, slots, 32)
    assert {"enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank"}.isdisjoint(arguments({}, cpu=True))


@pytest.mark.parametrize(
    ("adapters", "path"),
    [
        ({}, "folder"),
        ({"folder": "a", "max_rank": 10}, "max_rank"),
        ({"folder": "a", "max_loaded": 0}, "max_loaded"),
        ({"folder": "a", "max_loaded": 1, "load": {"x": "x", "y": "y"}}, "max_loaded is 1"),
    ],
)
def test_settings_of_adapters_that_cannot_be_are_refused(adapters: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError, match=path):
        LocalEngineSettings.model_validate({"vllm": {"adapters": adapters}})


def test_interactive_answers_come_before_background_ones() -> None:
    assert arguments({}, cpu=True)["scheduling_policy"] == "priority"


@pytest.mark.parametrize(
    ("speculation", "config"),
    [
        (
            {"method": "ngram", "tokens": 3, "lookup_max": 5},
            {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 2, "prompt_lookup_max": 5},
        ),
        (
            {"method": "draft_model", "model": "small"},
            {"method": "draft_model", "num_speculative_tokens": 4, "model": "small"},
        ),
    ],
)
def test_speculation_is_told_in_vllms_words(speculation: dict[str, Any], config: dict[str, Any]) -> None:
    told = arguments({"speculation": speculation}, cpu=True)
    assert told["speculative_config"] == config
    assert "logits_processors" not in told, "vLLM takes none beside speculation"


@pytest.mark.parametrize(
    ("speculation", "said"),
    [
        ({"method": "ngram", "model": "small"}, "is for the method draft_model"),
        ({"method": "draft_model"}, "needed there"),
        ({"method": "ngram", "lookup_min": 5, "lookup_max": 2}, "is more than lookup_max"),
    ],
)
def test_a_speculation_that_makes_no_sense_is_refused(speculation: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LocalEngineSettings.model_validate({"vllm": {"speculation": speculation}})
