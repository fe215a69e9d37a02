"""A model that cannot fit is refused with the numbers before vLLM is loaded; one that may fit never is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.local_engine.room import asked, require, within
from services.local_engine.settings import CpuSettings, LocalEngineSettings, MachineSettings, VllmSettings
from spillway.doctor.configuration import EnginePart, VllmPart
from spillway.doctor.fit import Asked
from spillway.doctor.machine import Cpu, Driver, Gpu, Machine, Memory, Software
from spillway.settings import SettingsError, SettingsHopeless

GIB = 2**30
MACHINE = Machine(
    Cpu("a CPU", "x86_64", 2), Memory(32 * GIB, 30 * GIB), software=Software(vllm="1", torch="2", vllm_build="cpu")
)
GPU = replace(
    MACHINE, gpus=(Gpu("a GPU", 24 * GIB, 24 * GIB),), software=Software(vllm="1", torch="2", vllm_build="gpu")
)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def settings(folder: Path, *, kv_cache_gib: float = 1.0, **vllm: Any) -> LocalEngineSettings:
    return LocalEngineSettings(model=str(folder), vllm=VllmSettings(cpu=CpuSettings(kv_cache_gib=kv_cache_gib), **vllm))


WEIGHTS_BYTES = 8_030_261_248 * 2


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """An 8B model; its weights are a file of 15 GiB that takes no room."""
    write(tmp_path)
    return tmp_path


def write(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with (folder / "model.safetensors").open("wb") as file:
        tensor = {"dtype": "BF16", "shape": [WEIGHTS_BYTES // 2], "data_offsets": [0, WEIGHTS_BYTES]}
        head = json.dumps({"all": tensor}).encode()
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + WEIGHTS_BYTES)


def test_the_bundled_model_has_room(tmp_path: Path) -> None:
    require(LocalEngineSettings(), MACHINE, tmp_path)


def test_a_model_that_fits_here_passes_and_a_download_that_is_to_come_is_not_judged(llama: Path) -> None:
    require(settings(llama), MACHINE, llama)
    require(LocalEngineSettings(model="owner/huge"), MACHINE, llama)


def test_what_never_fits_is_refused_for_good_with_the_numbers(llama: Path) -> None:
    small = replace(MACHINE, memory=Memory(32 * GIB, 30 * GIB, limit=12 * GIB))
    with pytest.raises(SettingsHopeless, match=r"model: .* needs 16\.0 GiB, .* 12\.0 GiB .*: 4\.0 GiB too"):
        require(settings(llama), small, llama)
    with pytest.raises(SettingsHopeless, match=r"8200 needs 1\.0 GiB of KV cache, and is granted .* cpu\.kv_cache_gib"):
        require(settings(llama, max_model_len=8200), MACHINE, llama)
    with pytest.raises(SettingsHopeless, match=r"with 20\.0 GiB of KV cache needs 35\.0 GiB, .* 3\.0 GiB too little"):
        require(settings(llama, kv_cache_gib=20), MACHINE, llama)
    with pytest.raises(SettingsHopeless, match="max_model_len to"):
        require(settings(llama, max_model_len=200_000), GPU, llama)


def test_what_does_not_fit_now_may_be_tried_again(llama: Path) -> None:
    busy = replace(MACHINE, memory=Memory(32 * GIB, 10 * GIB))
    with pytest.raises(SettingsError, match="other programs take the rest") as refused:
        require(settings(llama), busy, llama)
    assert not isinstance(refused.value, SettingsHopeless)


def test_only_what_is_certain_counts(llama: Path) -> None:
    exact = WEIGHTS_BYTES + GIB
    require(settings(llama, max_model_len=8192), replace(MACHINE, memory=Memory(exact, exact)), llama)
    with pytest.raises(SettingsHopeless):
        require(settings(llama, max_model_len=8192), replace(MACHINE, memory=Memory(exact - 1, exact - 1)), llama)


def test_a_context_that_the_model_only_claims_is_left_to_vllm(llama: Path) -> None:
    require(settings(llama, kv_cache_gib=0.5), MACHINE, llama)


def test_a_dead_driver_is_told_and_an_unknown_one_is_left_to_vllm(llama: Path) -> None:
    none = replace(GPU, gpus=())
    require(settings(llama), none, llama)
    with pytest.raises(SettingsError, match="NVIDIA driver does not work: it is dead"):
        require(settings(llama), replace(none, driver=Driver(failure="it is dead")), llama)


def test_more_gpus_than_there_are_cannot_be_had(llama: Path) -> None:
    with pytest.raises(SettingsHopeless, match="tensor_parallel_size asks for 2 GPUs and 1 work here"):
        require(settings(llama, tensor_parallel_size=2), GPU, llama)


def test_damaged_weights_are_told_and_a_shape_nobody_here_knows_is_left_to_vllm(llama: Path) -> None:
    (llama / "config.json").write_text('{"model_type": "unheard-of"}')
    require(settings(llama), MACHINE, llama)
    (llama / "config.json").write_text(json.dumps(CONFIG))
    (llama / "model.safetensors").write_bytes(b"half")
    with pytest.raises(SettingsError, match=r"local_engine\.model: .*model\.safetensors"):
        require(settings(llama), MACHINE, llama)


def test_half_a_download_is_not_judged(tmp_path: Path) -> None:
    place = tmp_path / "models--owner--large"
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    tiny = replace(MACHINE, memory=Memory(GIB, GIB))
    downloaded = LocalEngineSettings(model="owner/large")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    require(downloaded, tiny, tmp_path)
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"all": "model.safetensors"}}')
    require(downloaded, tiny, tmp_path)
    write(snapshot)
    with pytest.raises(SettingsHopeless, match="owner/large"):
        require(downloaded, tiny, tmp_path)


def test_without_vllm_or_a_memory_that_can_be_read_nothing_is_refused(llama: Path) -> None:
    require(settings(llama), replace(MACHINE, software=Software(), memory=Memory(1, 1)), llama)
    require(settings(llama), replace(MACHINE, memory=Memory(0, 0)), llama)


def test_the_doctor_reads_the_engines_settings_as_the_engine_does() -> None:
    """They are written twice, for a command of every node may not import a service."""
    told = {
        "dtype": "float16",
        "quantization": "awq",
        "max_model_len": 4096,
        "max_num_seqs": 7,
        "max_num_batched_tokens": 512,
        "gpu_memory_utilization": 0.5,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "kv_cache_dtype": "fp8",
        "cpu": {"kv_cache_gib": 2.5},
    }
    for vllm in ({}, told):
        ours = EnginePart.model_validate({"vllm": vllm})
        assert ours.vllm.asked() == asked(LocalEngineSettings.model_validate({"vllm": vllm}))
    assert replace(VllmPart().asked(), kv_cache_bytes=None) == Asked()


def beside(folder: Path, *, engine: str = "large", **share: Any) -> LocalEngineSettings:
    """The engine `large`, which has the 8B model and `share`, with one beside it that has the same model."""
    large = EnginePart.model_validate({"model": str(folder), "share": share})
    engines = {"small": EnginePart(model=str(folder)), "large": large}
    machine = MachineSettings(engine=engine, engines=engines)
    return LocalEngineSettings(model=str(folder), machine=machine, share=large.share)


def test_two_engines_that_do_not_fit_together_are_refused_with_what_each_takes(llama: Path) -> None:
    narrow = replace(MACHINE, memory=Memory(24 * GIB, 24 * GIB))
    require(settings(llama), narrow, llama)
    with pytest.raises(SettingsHopeless) as refused:
        require(beside(llama), narrow, llama)
    assert str(refused.value).startswith(f"local_engines.large.model: {llama}: ")
    assert "needs 16.0 GiB, and this machine has 8.0 GiB for it: 7.9 GiB too little" in str(refused.value)
    assert "(small takes 16.0 GiB)" in str(refused.value)
    wide = replace(MACHINE, memory=Memory(64 * GIB, 60 * GIB))
    assert require(beside(llama), wide, llama).asked.kv_cache_bytes == GIB


def test_a_neighbours_damaged_model_is_told_as_the_neighbours(llama: Path, tmp_path_factory: Any) -> None:
    broken = tmp_path_factory.mktemp("broken")
    (broken / "config.json").write_text("{")
    engines = {"small": EnginePart(model=str(broken)), "large": EnginePart(model=str(llama))}
    for engine, folder in (("large", llama), ("small", broken)):
        told = LocalEngineSettings(model=str(folder), machine=MachineSettings(engine=engine, engines=engines))
        with pytest.raises(SettingsError, match=r"^local_engines\.small\.model: "):
            require(told, MACHINE, llama)


def test_a_share_becomes_what_vllm_is_told(llama: Path) -> None:
    wide = replace(MACHINE, memory=Memory(64 * GIB, 60 * GIB))
    told = beside(llama, memory=0.5)
    lot = require(told, wide, llama)
    kept = within(told, lot).vllm.cpu.kv_cache_gib
    assert 14 < kept < 32 - WEIGHTS_BYTES / GIB
    with pytest.raises(SettingsHopeless, match=r"needs 16\.0 GiB, and this machine has 8\.0 GiB"):
        require(beside(llama, memory=0.125), wide, llama)


def test_engines_on_one_gpu_get_a_part_of_it_each(llama: Path) -> None:
    big = replace(GPU, gpus=(Gpu("a GPU", 80 * GIB, 80 * GIB),))
    told = beside(llama, memory=0.5)
    assert within(told, require(told, big, llama)).vllm.gpu_memory_utilization == 0.5
    small = beside(llama, engine="small")
    assert within(small, require(small, big, llama)).vllm.gpu_memory_utilization == 0.42
    with pytest.raises(
        SettingsHopeless, match=r"local_engines: GPU 0 has 80\.0 GiB, .*: large 0\.90 \(72\.0 GiB\), small"
    ):
        require(beside(llama, memory=0.9), big, llama)
