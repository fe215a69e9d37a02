"""The environment vLLM reads, some of it at import and in its child processes: set once, before vLLM is loaded."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from services.local_engine.settings import LocalEngineSettings
from spillway.settings import TelemetrySettings


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
        "VLLM_CPU_OMP_THREADS_BIND": vllm.cpu.bind,
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
    if vllm.cpu.threads is not None:
        variables["OMP_NUM_THREADS"] = str(vllm.cpu.threads)
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


def compile_nothing(environ: MutableMapping[str, str]) -> None:
    """Keep torch from compiling anything, for an engine told to run eagerly.

    vLLM compiles some of its sampler even then, at the first request that needs it: with a C++ compiler that takes ten
    seconds of that request, and without one it fails.
    """
    environ.setdefault("TORCHDYNAMO_DISABLE", "1")
