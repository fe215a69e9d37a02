"""Engines that share a machine: who gets which cores, GPUs and memory, and what does not fit together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spillway.doctor.configuration import EnginePart, Share
from spillway.doctor.family import member
from spillway.doctor.fit import GIB, Verdict, fit
from spillway.doctor.machine import Cpu, Gpu, Machine, Memory, Software
from spillway.doctor.sharing import Division, divide
from spillway.doctor.together import judged

CPU = Machine(
    Cpu("a CPU", "x86_64", 8, features=frozenset({"avx2", "avx512f"}), ids=(0, 4, 1, 5, 2, 6, 3, 7)),
    Memory(64 * GIB, 40 * GIB),
    software=Software(vllm="1", torch="2", vllm_build="cpu"),
)
GPUS = replace(
    CPU, gpus=(Gpu("a GPU", 24 * GIB, 24 * GIB),) * 2, software=Software(vllm="1", torch="2", vllm_build="gpu")
)
ONE_GPU = replace(GPUS, gpus=GPUS.gpus[:1])


def divided(machine: Machine, model: str | None = None, **engines: Any) -> Division:
    parts = {name: EnginePart.model_validate(told) for name, told in engines.items()}
    known = member(*model_at(model)) if model else None
    return divide(machine, parts, dict.fromkeys(parts, known))


def model_at(name: str) -> tuple[str, float]:
    family, _, bits = name.partition("@")
    return family, float(bits)


def said(division: Division) -> str:
    return " ".join(f"{finding.code}: {finding.what}" for finding in division.findings)


def test_cores_are_split_evenly_and_the_threads_of_a_core_stay_together() -> None:
    lots = divided(CPU, small={}, large={}).lots
    assert (lots["large"].cores, lots["small"].cores) == ((0, 4, 1, 5), (2, 6, 3, 7))
    assert repr(lots["large"]) == "<Lot cores 0,4,1,5>"


def test_an_engine_that_says_how_many_cores_gets_them_and_the_others_share_the_rest() -> None:
    lots = divided(CPU, a={"share": {"cores": 5}}, b={}, c={}).lots
    assert [len(lot.cores) for lot in lots.values()] == [5, 2, 1]


@given(st.dictionaries(st.sampled_from("abcdef"), st.none() | st.integers(1, 4), min_size=2))
def test_no_core_is_that_of_two_engines(wanted: dict[str, int | None]) -> None:
    parts = {name: EnginePart(share=Share(cores=cores)) for name, cores in wanted.items()}
    division = divide(CPU, parts, dict.fromkeys(parts))
    given_out = [core for lot in division.lots.values() for core in lot.cores]
    assert len(given_out) == len(set(given_out))
    if not division.findings:
        assert all(not cores or len(division.lots[name].cores) == cores for name, cores in wanted.items())


def test_cores_bound_by_hand_stay_and_are_taken_from_the_others() -> None:
    lots = divided(CPU, a={"vllm": {"cpu": {"bind": "0-2,4"}}}, b={}).lots
    assert (lots["a"].cores, lots["b"].cores) == ((), (5, 6, 3, 7))
    assert "cores_shared: a and b are both bound to core 2" in said(
        divided(CPU, a={"vllm": {"cpu": {"bind": "0-2"}}}, b={"vllm": {"cpu": {"bind": "2|3"}}})
    )


def test_more_cores_than_there_are_is_refused_and_more_engines_than_cores_share_them_all() -> None:
    told = said(divided(CPU, a={"share": {"cores": 6}}, b={"share": {"cores": 3}}, c={}))
    assert told == "cores_short: of 8 cores a 6, b 3, c 1 or more are asked for"
    few = replace(CPU, cpu=replace(CPU.cpu, cores=1, ids=(0,)))
    crowded = divided(few, a={}, b={})
    assert not crowded.findings
    assert [lot.cores for lot in crowded.lots.values()] == [(), ()]


def test_what_one_engine_takes_of_the_memory_is_not_there_for_the_other() -> None:
    lots = divided(CPU, "8B@16", small={}, large={"vllm": {"cpu": {"kv_cache_gib": 4}}}).lots
    weights = 8_030_261_248 * 2
    assert lots["small"].asked.kv_cache_bytes == GIB
    assert lots["large"].asked.kv_cache_bytes == 4 * GIB
    assert 40 * GIB - lots["small"].machine.memory.available > weights + 4 * GIB
    assert "large takes 2" in lots["small"].beside


def test_a_share_bounds_weights_and_cache_together() -> None:
    lots = divided(CPU, "1B@16", small={}, large={"share": {"memory": 0.5}}).lots
    large = fit(member("1B", 16), lots["large"].machine, lots["large"].asked)
    assert large.budget_bytes == 20 * GIB
    assert large.needed_bytes - large.context_bytes + large.kv_cache_bytes == 20 * GIB
    assert lots["small"].machine.memory.available == 20 * GIB


def test_shares_of_more_than_all_are_refused() -> None:
    told = said(divided(CPU, a={"share": {"memory": 0.7}}, b={"share": {"memory": 0.6}}))
    assert told == "memory_shared: shares of memory are more than all of it: a 0.7, b 0.6"


def test_engines_have_gpus_of_their_own_while_there_are_as_many() -> None:
    lots = divided(GPUS, small={}, large={}).lots
    assert (lots["large"].devices, lots["small"].devices) == ((0,), (1,))
    assert {lot.asked.gpu_memory_utilization for lot in lots.values()} == {0.85}
    assert [lot.cores for lot in lots.values()] == [(), ()]
    told = divided(GPUS, small={"share": {"devices": [0]}}, large={}).lots
    assert (told["small"].devices, told["large"].devices) == ((0,), (1,))


def test_on_one_gpu_its_memory_is_split_evenly_or_as_told() -> None:
    even = divided(ONE_GPU, small={}, large={}).lots
    assert {lot.asked.gpu_memory_utilization for lot in even.values()} == {0.42}
    told = divided(ONE_GPU, small={}, large={"share": {"memory": 0.6}}).lots
    assert told["large"].asked.gpu_memory_utilization == 0.6
    assert told["small"].asked.gpu_memory_utilization == 0.25
    assert told["small"].beside == "large has 0.60 of GPU 0"


def test_what_gpus_do_not_have_is_refused_with_the_numbers() -> None:
    both = {"vllm": {"gpu_memory_utilization": 0.6}}
    assert "large 0.60 (14.4 GiB), small 0.60 (14.4 GiB)" in said(divided(ONE_GPU, small=both, large=both))
    assert "large 0.90 (21.6 GiB), small" in said(divided(ONE_GPU, small={}, large={"share": {"memory": 0.9}}))
    assert "names GPU 7, and there are 2" in said(divided(GPUS, small={"share": {"devices": [7]}}, large={}))
    assert "no GPU is left for small" in said(divided(ONE_GPU, small={}, large={"share": {"devices": [0]}}))


def test_an_engine_before_a_runtime_takes_nothing_itself() -> None:
    division = divided(CPU, small={"runtime": {"kind": "ollama"}}, large={})
    assert list(division.lots) == ["large"]
    assert division.lots["large"].cores == ()


def test_the_doctor_judges_all_engines_together_and_names_each() -> None:
    parts = dict.fromkeys(("small", "large"), EnginePart.model_validate({"vllm": {"max_model_len": 4096}}))
    models = {"small": member("1B", 16), "large": member("14B", 16)}
    alone = fit(models["large"], CPU, parts["large"].vllm.asked())
    fine = judged(CPU, parts, models, stream_tokens=4096)
    assert (alone.verdict, fine.healthy) == (Verdict.FITS, True)
    tight = judged(replace(CPU, memory=Memory(64 * GIB, 31 * GIB)), parts, models, stream_tokens=4096)
    assert not tight.healthy
    told = [finding.what for finding in tight.findings if finding.severity == "error"]
    assert [what.partition(":")[0] for what in told] == ["small", "large"]
    assert "too little (small takes 4.5 GiB)" in told[1]
    assert set(tight.as_json()["engines"]["large"]) == {"cores", "devices", "asked", "model", "fit"}
