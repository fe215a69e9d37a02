"""Whether there is room for the model: asked before anything heavy is loaded, of what is certain alone.

Weights and KV cache are certain, activations and libraries are not: a model that is refused here vLLM could not serve.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.local_engine.settings import LocalEngineSettings, MachineSettings
from spillway.doctor import checkpoint
from spillway.doctor.diagnosis import advise
from spillway.doctor.fit import GIB, Asked, Fit, Verdict, fit
from spillway.doctor.machine import Machine
from spillway.doctor.sharing import Lot, divide
from spillway.doctor.weights import Model
from spillway.errors import RequestInvalid
from spillway.local_engines import GROUND, SECTION
from spillway.logs import get_logger
from spillway.settings import SettingsError, SettingsHopeless

log = get_logger(__name__)


def require(settings: LocalEngineSettings, machine: Machine, cache: Path) -> Lot:
    """Return what this engine gets of `machine`: all of it, unless other engines are configured beside it.

    Raises SettingsHopeless, with the numbers, for a model or for engines that cannot fit; SettingsError, where the
    model only does not fit now, or its files are damaged, or the GPU's driver is dead. `cache` is where downloaded
    models are; one that is not on this disk yet is not judged.
    """
    lot = certain = Lot(_empty(machine), asked(settings))
    if settings.machine is not None:
        lot, certain = _lots(settings.machine, machine, cache)
    if not machine.software.vllm:
        return lot  # its absence is told where it is imported
    if machine.device == "gpu" and not machine.gpus:
        if machine.driver is not None and machine.driver.failure:
            raise SettingsError(f"local_engine: the NVIDIA driver does not work: {machine.driver.failure}")
        return lot  # nvidia-smi may be missing where the GPU is not
    if machine.device == "cpu" and not machine.memory.total:
        return lot
    model = _model(settings.model, cache, _place(settings.machine))
    if model is None:
        return lot
    found = fit(model, certain.machine, lot.asked, margin=False)
    if found.verdict is Verdict.TOO_BIG:
        raise SettingsHopeless(_refusal(settings, model, certain, found))
    gpus = tuple(machine.gpus[number] for number in lot.devices) or machine.gpus
    here = replace(lot, machine=replace(machine, gpus=gpus))
    now = fit(model, here.machine, lot.asked, margin=False)
    if now.verdict is Verdict.TOO_BIG:
        raise SettingsError(f"{_refusal(settings, model, here, now)}; other programs take the rest")
    if now.verdict is Verdict.SHORTER:  # vLLM may read a shorter context off the model than we do
        log.warning("engine.context_too_long", context=now.context, longest=now.longest)
    return lot


def within(settings: LocalEngineSettings, lot: Lot) -> LocalEngineSettings:
    """Return `settings` as this engine's part of the machine has them."""
    if settings.machine is None:
        return settings
    assert lot.asked.kv_cache_bytes is not None
    cpu = settings.vllm.cpu.model_copy(update={"kv_cache_gib": lot.asked.kv_cache_bytes / GIB})
    told = {"cpu": cpu, "gpu_memory_utilization": lot.asked.gpu_memory_utilization}
    return settings.model_copy(update={"vllm": settings.vllm.model_copy(update=told)})


def _lots(sharing: MachineSettings, machine: Machine, cache: Path) -> tuple[Lot, Lot]:
    """Return this engine's lot, and the same with all that others do not take for certain."""
    models = {
        name: _model(part.model, cache, f"{SECTION}.{name}") if part.model else None
        for name, part in sharing.engines.items()
    }
    # Numbers of GPUs are nvidia-smi's, so these are not sorted.
    empty = replace(_empty(machine), gpus=tuple(replace(gpu, free=gpu.memory) for gpu in machine.gpus))
    planned, certain = (divide(empty, sharing.engines, models, margin=margin) for margin in (True, False))
    if planned.findings:
        said = "\n".join(f"{SECTION}: {finding.what}: {finding.mend}" for finding in planned.findings)
        raise SettingsHopeless(said)
    everything = Lot(empty, Asked())  # of one whose runtime is elsewhere
    return planned.lots.get(sharing.engine, everything), certain.lots.get(sharing.engine, everything)


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


def _model(name: str, cache: Path, place: str) -> Model | None:
    """Return the model `name` of the settings at `place`, None where it is not known."""
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
        raise SettingsError(f"{place}.{error.message}") from None
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


def _place(sharing: MachineSettings | None) -> str:
    return GROUND if sharing is None else f"{SECTION}.{sharing.engine}"


def _refusal(settings: LocalEngineSettings, model: Model, lot: Lot, found: Fit) -> str:
    advice = advise(model, lot.machine, lot.asked, found)
    error = next(finding for finding in advice if finding.severity == "error")
    beside = f" ({lot.beside})" if lot.beside else ""
    mend = f": {error.mend}" if error.mend else ""
    return f"{_place(settings.machine)}.model: {settings.model}: {error.what}{beside}{mend}"
