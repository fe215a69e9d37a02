"""What is wrong is said in words, by a process that ends or goes on saying so: never a trace, never a hang."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.local_engine.settings import BUNDLED_MODEL
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import TargetDown
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.v1 import inference_pb2_grpc
from tests.integration.processes import END_S, START_S, free_port, started

EXIT_SETTINGS, EXIT_START = 2, 3
NO_VLLM = importlib.util.find_spec("vllm") is None
TINY = {"vllm": {"max_model_len": 256, "cpu": {"kv_cache_gib": 0.1}}}


async def ended(
    section: Mapping[str, Any], folder: Path, environ: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a local engine until it ends by itself; return its exit code and what it said."""
    config = folder / "spillway.yaml"
    server = {"listen": f"127.0.0.1:{free_port()}", "announce_s": 0}
    config.write_text(yaml.safe_dump({"local_engine": {"server": server, "logs": {"format": "json"}, **section}}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.local_engine", "--config", str(config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), START_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode().splitlines()


def last_words(said: list[str]) -> str:
    """What a user sees last: one event, which says why."""
    told: dict[str, str] = json.loads(said[-1])
    assert told["event"] == "process.not_started"
    assert "exception" not in told
    return told["why"]


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": [')


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def half_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ')


def unknown_architecture(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "architectures": ["FrobForCausalLM"]}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_weights, "model.safetensors is cut short: 100000 of 6300160 bytes; download it again"),
        (no_weights, "model.safetensors is no safetensors file (a Git LFS pointer, perhaps): download it again"),
        (no_config, "this folder is no model: config.json is missing"),
        (half_config, "this folder is no model: config.json is not JSON"),
        (no_tokenizer, "this folder is no model: it has no tokenizer"),
        (half_tokenizer, "this folder is no model: tokenizer.json is not JSON"),
        pytest.param(
            *(unknown_architecture, "vLLM cannot serve it: Model architectures ['FrobForCausalLM'] are not supported"),
            marks=[pytest.mark.engine, pytest.mark.skipif(NO_VLLM, reason="needs vllm")],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_corrupt_model_folder_ends_the_process_with_what_is_wrong_with_it(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    if NO_VLLM and spoil in (cut_weights, no_weights):
        pytest.skip("without vLLM its absence is told first")
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    spoil(folder)
    code, lines = await ended({"model": str(folder), **TINY}, tmp_path)
    assert code == EXIT_START
    why = last_words(lines)
    assert why.startswith(f"local_engine.model: {folder}")
    assert said in why


@pytest.mark.skipif(NO_VLLM, reason="needs vllm")
async def test_a_model_that_is_too_large_ends_the_process_with_the_numbers_and_what_would_help(tmp_path: Path) -> None:
    code, lines = await ended({"vllm": {"max_model_len": 10**10}}, tmp_path)
    assert code == EXIT_SETTINGS
    assert "GiB of KV cache, and is granted 1.0 GiB" in last_words(lines)
    assert "set max_model_len to 2048 or less" in last_words(lines)


async def test_an_adapter_that_is_not_there_ends_the_process_with_its_name(tmp_path: Path) -> None:
    adapters = {"folder": str(tmp_path), "load": {"formal": "nowhere"}}
    code, lines = await ended({"vllm": {**TINY["vllm"], "adapters": adapters}}, tmp_path)
    assert code == EXIT_START
    assert last_words(lines).startswith("local_engine.vllm.adapters.load.formal: path: there is no nowhere in")


@pytest.mark.skipif(NO_VLLM, reason="needs torch")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('__version__ = "0.19.1"', "local_engine: found vLLM 0.19.1, the engine needs at least 0.32.0"),
        (
            'raise ImportError("libcuda.so.1: cannot open shared object file")',
            "local_engine: vLLM cannot be imported: libcuda.so.1: cannot open shared object file",
        ),
        (
            'raise ModuleNotFoundError("No module named vllm", name="vllm")',
            "local_engine: vllm is not installed beside it: install it, or set local_engine.runtime",
        ),
    ],
    ids=["old", "broken", "missing"],
)
async def test_a_vllm_that_will_not_do_ends_the_process_with_what_is_needed(
    tmp_path: Path, source: str, said: str
) -> None:
    package = tmp_path / "path" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    places = [str(package.parent), str(Path(__file__).parents[3])]
    code, lines = await ended({}, tmp_path, {"PYTHONPATH": os.pathsep.join(places)})
    assert code == EXIT_START
    assert last_words(lines).startswith(said)


def smi(folder: Path, script: str) -> dict[str, str]:
    """An environment whose nvidia-smi is `script`."""
    place = folder / "bin" / "nvidia-smi"
    place.parent.mkdir()
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{place.parent}{os.pathsep}{os.environ['PATH']}"}


async def doctor(environ: Mapping[str, str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spillway.cli.main", "doctor", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
    )
    told, _ = await asyncio.wait_for(process.communicate(), START_S)
    answered: dict[str, Any] = json.loads(told)
    return answered


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
            "the NVIDIA driver does not work: NVIDIA-SMI has failed",
        ),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "version mismatch"),
        ("exec sleep 3600", "the NVIDIA driver does not work: nvidia-smi did not answer within 10 s"),
    ],
    ids=["failed", "mismatch", "hangs"],
)
async def test_a_dead_driver_is_told_with_what_mends_it_and_holds_nothing_up(
    tmp_path: Path, script: str, said: str
) -> None:
    (found,) = [one for one in (await doctor(smi(tmp_path, script)))["findings"] if one["code"] == "driver_dead"]
    assert said in found["what"]
    assert found["mend"]


@pytest.mark.skipif(NO_VLLM, reason="needs vllm")
async def test_a_driver_that_hangs_does_not_hang_the_engine(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    cut_weights(folder)
    code, lines = await ended({"model": str(folder)}, tmp_path, smi(tmp_path, "exec sleep 3600"))
    assert code == EXIT_START
    assert last_words(lines)


async def test_a_runtime_that_cannot_be_reached_is_named_to_every_caller_until_it_can(tmp_path: Path) -> None:
    runtime = {"kind": "llama-cpp", "address": f"http://127.0.0.1:{free_port()}"}
    async with started("local_engine", {"runtime": runtime}, tmp_path / "spillway.yaml", ready=False) as (at, process):
        remote = Remote(at, tracing=Tracing("test"))
        stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
        request = v1.GenerateRequest(spec=v1.GenerationSpec(text=v1.TextPrompt(text="Hello")))
        why = ""
        async with asyncio.timeout(END_S):
            while "cannot be reached" not in why:
                with pytest.raises(TargetDown) as refusal:
                    await remote.unary(stub.Generate, request, Call("r", Deadline.after(END_S)), span_name="t")
                why = refusal.value.message
        assert "llama-cpp" in why
        assert refusal.value.retry_after_s is not None
        process.terminate()
        assert await asyncio.wait_for(process.wait(), END_S) == 0
        await remote.close()
