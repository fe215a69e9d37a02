"""What vLLM reads from the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from services.local_engine.environment import compile_nothing, compute_on_cpu, name_version, prepare, wanted
from services.local_engine.settings import CpuSettings, LocalEngineSettings, VllmSettings
from spillway.settings import TelemetrySettings


def test_nothing_is_reported_to_the_makers_and_no_hub_is_asked_for_a_local_model(tmp_path: Path) -> None:
    found = wanted(LocalEngineSettings(model=str(tmp_path)))
    assert found["VLLM_NO_USAGE_STATS"] == "1"
    assert found["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in wanted(LocalEngineSettings(model="owner/small"))


def test_what_the_operator_set_stays() -> None:
    environ = {"VLLM_LOGGING_LEVEL": "DEBUG"}
    prepare(LocalEngineSettings(), environ)
    assert environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environ["VLLM_NO_USAGE_STATS"] == "1"
    compile_nothing(environ)
    assert environ["TORCHDYNAMO_DISABLE"] == "1"


def test_vllms_spans_say_which_vllm_made_them_unless_the_operator_says_else() -> None:
    for environ, told in (({}, "service.version=0.32.0"), ({"OTEL_RESOURCE_ATTRIBUTES": "a=b"}, "a=b")):
        name_version("0.32.0", environ)
        assert environ["OTEL_RESOURCE_ATTRIBUTES"] == told


def test_the_span_exporter_never_outlasts_ours() -> None:
    assert not any(name.startswith("OTEL") for name in wanted(LocalEngineSettings()))
    telemetry = TelemetrySettings(otlp_endpoint="http://127.0.0.1:4317", export_timeout_s=2)
    found = wanted(LocalEngineSettings(telemetry=telemetry))
    assert found["OTEL_EXPORTER_OTLP_TIMEOUT"] == "2"
    assert found["OTEL_SERVICE_NAME"] == "vllm"


def computed(cores: int, **cpu: Any) -> dict[str, str]:
    environ: dict[str, str] = {}
    compute_on_cpu(VllmSettings(cpu=CpuSettings(**cpu)), cores, environ)
    return environ


def test_on_few_cores_the_worker_has_no_process_of_its_own_and_one_core_is_left_for_the_rest() -> None:
    expected = {
        "SPILLWAY_ENGINE_ON_CPU": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "auto",
    }
    assert computed(2) == {**expected, "OMP_NUM_THREADS": "1"}
    assert computed(1)["OMP_NUM_THREADS"] == "1"
    assert computed(4, threads=2) == {**expected, "OMP_NUM_THREADS": "2"}


def test_on_many_cores_or_as_told_vllm_binds_its_worker() -> None:
    expected = {"SPILLWAY_ENGINE_ON_CPU": "1", "VLLM_CPU_OMP_THREADS_BIND": "auto"}
    assert computed(32) == expected
    assert computed(2, bind="0-1") == {**expected, "VLLM_CPU_OMP_THREADS_BIND": "0-1"}
    assert computed(2, bind="nobind", threads=3) == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "3"}


def test_an_engine_stays_on_its_cores_and_gpus_with_all_it_starts() -> None:
    program = (
        "import os, threading; from services.local_engine.environment import confine\n"
        "up, down = threading.Event(), threading.Event()\n"
        "early = threading.Thread(target=lambda: (up.set(), down.wait())); early.start(); up.wait()\n"
        "core = max(os.sched_getaffinity(0)); environ = {'CUDA_VISIBLE_DEVICES': '5'}\n"
        "confine((core,), (0, 1), environ); other = {}; confine((), (0, 1), other); confine((), (), {})\n"
        "assert {core} == os.sched_getaffinity(0) == os.sched_getaffinity(early.native_id)\n"
        "assert environ['CUDA_VISIBLE_DEVICES'] == '5' and other['CUDA_VISIBLE_DEVICES'] == '0,1'\n"
        "down.set()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
