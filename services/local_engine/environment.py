"""The environment vLLM reads, some of it at import and in its child processes: set once, before vLLM is loaded."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from services.local_engine.settings import LocalEngineSettings, VllmSettings
from services.local_engine.spawned import ON_CPU
from spillway.settings import TelemetrySettings

FEW_CORES = 4


def prepare(settings: LocalEngineSettings, environ: MutableMapping[str, str]) -> None:
    """Set in `environ` what `settings` say. What the operator set by vLLM's own names stays."""
    for name, value in wanted(settings).items():
        environ.setdefault(name, value)


def wanted(settings: LocalEngineSettings) -> dict[str, str]:
    """Return the variables that follow from `settings`."""
    vllm = settings.vllm
    quiet = vllm.log_level in ("warning", "error")
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": vllm.log_level.upper(),
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if quiet:
        variables |= {
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TQDM_DISABLE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONWARNINGS": "ignore",  # for the processes vLLM spawns: libraries' notes to their own developers
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
    if Path(settings.model).is_dir():
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if settings.telemetry.otlp_endpoint:
        variables |= tracing(settings.telemetry)
    return variables


def tracing(telemetry: TelemetrySettings) -> dict[str, str]:
    """Return the variables of vLLM's own span exporter: its name, and waits short enough for a shutdown."""
    wait_ms = round(telemetry.export_timeout_s * 1000)
    return {
        "OTEL_SERVICE_NAME": "vllm",
        "OTEL_EXPORTER_OTLP_TIMEOUT": str(max(1, round(telemetry.export_timeout_s))),
        "OTEL_BSP_SCHEDULE_DELAY": str(round(telemetry.export_interval_s * 1000)),
        "OTEL_BSP_EXPORT_TIMEOUT": str(wait_ms),
    }


def confine(cores: tuple[int, ...], devices: tuple[int, ...], environ: MutableMapping[str, str]) -> None:
    """Keep this process, and what it starts, on `cores` and on the GPUs `devices`, where any are named."""
    if cores:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), cores)
    if devices:
        environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # by nvidia-smi's numbers
        environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, devices)))


def name_version(version: str, environ: MutableMapping[str, str]) -> None:
    """Have vLLM's own spans say which vLLM made them."""
    environ.setdefault("OTEL_RESOURCE_ATTRIBUTES", f"service.version={version}")


def compile_nothing(environ: MutableMapping[str, str]) -> None:
    """Keep torch from compiling anything, for an engine told to run eagerly.

    vLLM compiles some of its sampler even then, at the first request that needs it: with a C++ compiler that takes ten
    seconds of that request, and without one it fails.
    """
    environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def compute_on_cpu(vllm: VllmSettings, cores: int, environ: MutableMapping[str, str]) -> None:
    """Share out the `cores` of this machine between computing and all else.

    vLLM's own way gives the worker a process, bound to all cores but one, and lets the core spin on that one while it
    waits for the worker. Where there are few cores the worker computes inside the core's process instead: measured on
    two busy cores that is half the CPU time and up to three times the tokens, and one process less to start.
    """
    environ[ON_CPU] = "1"
    threads = vllm.cpu.threads
    if vllm.cpu.bind == "auto" and cores <= FEW_CORES and vllm.tensor_parallel_size == 1:
        environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        threads = threads or max(1, cores - 1)
    environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", vllm.cpu.bind)
    if threads is not None:
        environ.setdefault("OMP_NUM_THREADS", str(threads))
