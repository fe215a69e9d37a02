"""What vLLM reads from the environment."""

from __future__ import annotations

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
    expected = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "auto"}
    assert computed(2) == {**expected, "OMP_NUM_THREADS": "1"}
    assert computed(1)["OMP_NUM_THREADS"] == "1"
    assert computed(4, threads=2) == {**expected, "OMP_NUM_THREADS": "2"}


def test_on_many_cores_or_as_told_vllm_binds_its_worker() -> None:
    assert computed(32) == {"VLLM_CPU_OMP_THREADS_BIND": "auto"}
    assert computed(2, bind="0-1") == {"VLLM_CPU_OMP_THREADS_BIND": "0-1"}
    assert computed(2, bind="nobind", threads=3) == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "3"}
