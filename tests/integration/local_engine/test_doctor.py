"""The doctor's numbers beside those of vLLM itself, for models with random weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

from services.local_engine import environment, room
from services.local_engine.settings import CpuSettings, LocalEngineSettings, VllmSettings
from spillway.doctor import checkpoint
from spillway.doctor.architecture import architecture
from spillway.doctor.fit import Verdict, fit
from spillway.doctor.inspection import Sources, inspect
from tests.integration.local_engine.random_model import SHAPES, tensors, write

CLOSE = 0.02
CONTEXT = 512
END_S = 600.0

# What vLLM holds is asked before it turns the weights into its kernels' own layout: on CPUs some then are no
# parameters of the model any more. All in one process, so that the worker can be asked.
REPORTED = """
import json, sys
from vllm import LLM
from vllm.model_executor.model_loader import base_loader
from vllm.platforms import current_platform

from services.local_engine.settings import LocalEngineSettings
from services.local_engine.vllm_arguments import engine_arguments

held = []
process = base_loader.process_weights_after_loading

def counted(model, *rest, **more):
    held.append(sum(weights.numel() * weights.element_size() for weights in model.parameters()))
    return process(model, *rest, **more)

if __name__ == "__main__":
    base_loader.process_weights_after_loading = counted
    settings = LocalEngineSettings.model_validate_json(sys.argv[1])
    told = engine_arguments(settings, cpu=current_platform.is_cpu())
    names = ("model", "dtype", "max_model_len", "max_num_batched_tokens", "gpu_memory_utilization")
    llm = LLM(
        **{name: told[name] for name in names},
        enforce_eager=True, max_num_seqs=4, kv_cache_memory_bytes=2**28, skip_tokenizer_init=True,
    )
    (layers,) = llm.collective_rpc("get_kv_cache_spec")
    token = sum(layer.page_size_bytes / layer.block_size for layer in layers.values())
    print("REPORTED", json.dumps({"weights_bytes": held[0], "kv_token_bytes": token}), flush=True)
"""


def reported(settings: LocalEngineSettings, folder: Path) -> dict[str, float]:
    """Return what vLLM says of the model that `settings` name, in a process of its own."""
    environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment.prepare(settings, environ)
    environment.compute_on_cpu(settings.vllm, os.cpu_count() or 1, environ)
    environment.compile_nothing(environ)
    program = folder / "reported.py"  # a file, for what vLLM may spawn
    program.write_text(REPORTED)
    command = [sys.executable, str(program), settings.model_dump_json(include={"model": True, "vllm": True})]
    root = str(Path(__file__).parents[3])
    environ["PYTHONPATH"] = os.pathsep.join([root, environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=END_S)
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORTED ")]
    assert lines, f"vLLM reported nothing (code {done.returncode}):\n{done.stderr[-4000:]}"
    answered: dict[str, float] = json.loads(lines[-1].removeprefix("REPORTED "))
    return answered


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_what_a_shape_says_is_what_its_files_hold(name: str) -> None:
    assert architecture(SHAPES[name]).parameters == sum(prod(shape) for shape in tensors(SHAPES[name]).values())


@pytest.mark.engine
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_weights_and_cache_are_within_two_percent_of_what_vllm_reports(
    name: str, tmp_path: Path, record_property: Any
) -> None:
    folder = write(tmp_path / name, SHAPES[name])
    settings = LocalEngineSettings(
        model=str(folder),
        vllm=VllmSettings(max_model_len=CONTEXT, max_num_batched_tokens=CONTEXT, cpu=CpuSettings(kv_cache_gib=0.25)),
    )
    model = checkpoint.read(folder)
    found = fit(model, inspect(Sources.here(folder)), room.asked(settings))
    assert found.verdict is Verdict.FITS
    told = reported(settings, tmp_path)
    record_property("doctor", f"{found.weights_bytes} {found.kv_token_bytes}")
    record_property("vllm", f"{told['weights_bytes']} {told['kv_token_bytes']}")
    assert model.exact
    assert found.weights_bytes == pytest.approx(told["weights_bytes"], rel=CLOSE)
    assert found.kv_token_bytes == pytest.approx(told["kv_token_bytes"], rel=CLOSE)
    if name == "large":
        assert model.parameters >= 500_000_000
