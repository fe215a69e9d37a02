"""Whether there is room for the model: asked before anything heavy is loaded, of what is certain alone.

Weights and KV cache are certain, activations and libraries are not: a model that is refused here vLLM could not serve.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.local_engine.settings import LocalEngineSettings
from spillway.doctor import checkpoint
from spillway.doctor.diagnosis import advise
from spillway.doctor.fit import GIB, Asked, Fit, Verdict, fit
from spillway.doctor.machine import Machine
from spillway.doctor.weights import Model
from spillway.errors import RequestInvalid
from spillway.logs import get_logger
from spillway.settings import SettingsError, SettingsHopeless

log = get_logger(__name__)


def require(settings: LocalEngineSettings, machine: Machine, cache: Path) -> None:
    """Raise SettingsHopeless, with the numbers, for a model that cannot fit `machine`.

    SettingsError, where it only does not fit now; or where its files are damaged, or the GPU's driver is dead. `cache`
    is where downloaded models are; one that is not on this disk yet is not judged.
    """
    if not machine.software.vllm:
        return  # its absence is told where it is imported
    if machine.device == "gpu" and not machine.gpus:
        if machine.driver is not None and machine.driver.failure:
            raise SettingsError(f"local_engine: the NVIDIA driver does not work: {machine.driver.failure}")
        return  # nvidia-smi may be missing where the GPU is not
    if machine.device == "cpu" and not machine.memory.total:
        return
    model = _model(settings.model, cache)
    if model is None:
        return
    wanted = asked(settings)
    empty = _empty(machine)
    found = fit(model, empty, wanted, margin=False)
    if found.verdict is Verdict.TOO_BIG:
        raise SettingsHopeless(_refusal(settings, model, empty, wanted, found))
    now = fit(model, machine, wanted, margin=False)
    if now.verdict is Verdict.TOO_BIG:
        raise SettingsError(f"{_refusal(settings, model, machine, wanted, now)}; other programs take the rest")
    if now.verdict is Verdict.SHORTER:  # vLLM may read a shorter context off the model than we do
        log.warning("engine.context_too_long", context=now.context, longest=now.longest)


def asked(settings: LocalEngineSettings) -> Asked:
    """Return what `settings` ask of the machine's memory."""
    vllm = settings.vllm
    return Asked(
        dtype=vllm.dtype,
        quantization=vllm.quantization,
        kv_cache_bytes=round(vllm.cpu.kv_cache_gib * GIB),
        max_model_len=vllm.max_model_len,
        max_num_seqs=vllm.max_num_seqs,
        max_num_batched_tokens=vllm.max_num_batched_tokens,
        gpu_memory_utilization=vllm.gpu_memory_utilization,
        kv_cache_dtype=vllm.kv_cache_dtype,
        # A stage of a pipeline has its share of the layers, as a GPU of a tensor has of each.
        tensor_parallel_size=vllm.tensor_parallel_size * vllm.pipeline_parallel_size,
    )


def _model(name: str, cache: Path) -> Model | None:
    folder = checkpoint.find(name, cache)
    if folder is None:
        return None
    downloaded = not Path(name).is_dir()
    try:
        model = checkpoint.read(folder, name=name if downloaded else "")
    except RequestInvalid as error:
        if downloaded:
            return None  # half a download goes on where it stopped
        if any(violation.field.startswith("config.") for violation in error.fields):
            log.info("engine.size_unknown", why=error.message)  # vLLM knows shapes that we do not
            return None
        raise SettingsError(f"local_engine.{error.message}") from None
    return model if model.exact or model.folder_bytes else None


def _empty(machine: Machine) -> Machine:
    """Return `machine` as if nothing else ran on it, its largest GPUs first."""
    memory = machine.memory
    return replace(
        machine,
        memory=replace(memory, available=memory.limit or memory.total),
        gpus=tuple(
            sorted((replace(gpu, free=gpu.memory) for gpu in machine.gpus), key=lambda gpu: gpu.memory, reverse=True)
        ),
    )


def _refusal(settings: LocalEngineSettings, model: Model, machine: Machine, wanted: Asked, found: Fit) -> str:
    error = next(finding for finding in advise(model, machine, wanted, found) if finding.severity == "error")
    mend = f": {error.mend}" if error.mend else ""
    return f"local_engine.model: {settings.model}: {error.what}{mend}"
