"""The load of a runtime: its own word, and what has been sent since."""

from __future__ import annotations

import pytest

from services.local_engine.runtime_load import Told, from_slots, from_vllm, load
from spillway import v1

SERVING = v1.ENGINE_STATE_SERVING
METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:request_success_total{engine="0"} 17.0
"""


def test_the_engines_of_one_vllm_are_summed_up() -> None:
    assert from_vllm(METRICS, ours=1) == Told(3, 4, 0.375, 1)
    assert from_vllm(b"nothing of ours 1.0\n", ours=1) is None


def test_a_slot_of_llama_cpp_that_works_is_a_request() -> None:
    assert from_slots(b'[{"is_processing": true}, {"is_processing": false}]', ours=0) == Told(1, None, None, 0)


@pytest.mark.parametrize("body", [b"", b"{", b'{"error": {}}', b"[1]", b"7"])
def test_slots_that_are_none_say_nothing(body: bytes) -> None:
    assert from_slots(body, ours=0) is None


def test_unknown_is_absent() -> None:
    told = load(SERVING, 2, None, sequence=0, age_s=None)
    assert told == v1.Load(state=SERVING, running=2)


@pytest.mark.parametrize(
    ("ours_then", "ours_now", "running", "waiting"),
    [(3, 3, 3, 4), (3, 0, 0, 4), (3, 5, 5, 4), (7, 0, 0, 0), (7, 2, 0, 2)],
)
def test_what_others_have_there_is_added_to_ours_as_it_is_now(
    ours_then: int, ours_now: int, running: int, waiting: int
) -> None:
    told = load(SERVING, ours_now, Told(3, 4, 0.5, ours_then), sequence=9, age_s=0.25)
    assert (told.running, told.waiting, told.sequence, told.age_ms) == (running, waiting, 9, 250.0)
