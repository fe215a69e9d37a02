"""What stands in the way on a machine, or between a model and it, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

from spillway.doctor.family import sized
from spillway.doctor.fit import GIB, SHORTEST, Asked, Fit, Verdict, computed_width, fit, loaded_bytes
from spillway.doctor.machine import Machine
from spillway.doctor.weights import Model, Weights

OLDEST_CAPABILITY = (7, 5)
"""What vLLM's wheels are built for: Turing and newer (docs.vllm.ai, Installation, GPU)."""


OLDEST_VLLM = "0.32.0"
"""What the local engine needs; it looks for what it needs itself (services/local_engine/vllm_version.py)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know. An error keeps the engine from running. `code` is for programs."""

    severity: Literal["error", "warning", "note"]
    code: str
    what: str
    mend: str = ""


def diagnose(machine: Machine) -> tuple[Finding, ...]:
    """Return what is wrong with a machine, whatever the model."""
    return (*_software(machine), *_driver(machine), *_gpus(machine), *_cpu(machine), *_memory(machine))


def _software(machine: Machine) -> Iterator[Finding]:
    software = machine.software
    if not software.vllm:
        build = "gpu" if machine.cards or machine.gpus else "cpu"
        mend = f"`requirements/install {build}` installs it; or use another local runtime"
        yield Finding("error", "vllm_missing", "vLLM is not installed beside this command", mend)
    elif not software.torch:
        yield Finding(
            "error", "torch_missing", "vLLM is installed and torch is not", "`requirements/install` installs both"
        )
    if software.vllm and _number(software.vllm) < _number(OLDEST_VLLM):
        what = f"vLLM {software.vllm} is older than {OLDEST_VLLM}, the oldest that the local engine can use"
        yield Finding("error", "vllm_old", what, "`requirements/install` installs a newer one")
    if machine.gpus and software.vllm_build == "cpu":
        mend = "`requirements/install gpu` installs the other one"
        yield Finding("warning", "gpu_unused", "there is a GPU, and vLLM's build for CPUs", mend)
    if software.vllm_build == "gpu" and not machine.gpus and not machine.cards:
        mend = "`requirements/install cpu` installs the build for CPUs"
        yield Finding("error", "gpu_missing", "vLLM's build is for GPUs, and there is none", mend)


def _driver(machine: Machine) -> Iterator[Finding]:
    driver, needs = machine.driver, machine.software.torch_cuda
    severity: Literal["error", "warning"] = "error" if machine.device == "gpu" else "warning"
    if driver is None:
        if machine.cards and not machine.gpus:
            what = f"{machine.cards} NVIDIA card(s) on the bus, and no driver (nvidia-smi is missing)"
            mend = "install NVIDIA's driver; in a container, start it with the NVIDIA container toolkit (--gpus all)"
            yield Finding(severity, "driver_missing", what, mend)
        return
    if driver.failure:
        said = driver.failure.lower()
        if "mismatch" in said:
            mend = "the driver was updated while its old module is loaded: restart the machine"
        elif "did not answer" in said:
            mend = "the driver hangs: look for Xid in the kernel's log (dmesg), then restart the machine"
        elif "no devices" in said:
            mend = "the driver runs and sees no GPU: look for Xid in the kernel's log; in a VM, pass the GPU through"
        else:
            mend = "its module is not loaded: `modprobe nvidia`, or install the driver anew for the kernel that runs"
        yield Finding(severity, "driver_dead", f"the NVIDIA driver does not work: {driver.failure}", mend)
    if needs and driver.cuda and driver.cuda[0] < needs[0]:
        what = f"torch is built for CUDA {_dotted(needs)}; driver {driver.version} runs CUDA {_dotted(driver.cuda)}"
        yield Finding("error", "driver_old", what, "install a newer driver, or a torch built for an older CUDA")
    elif needs and driver.cuda and driver.cuda < needs:
        what = f"torch is built for CUDA {_dotted(needs)}; driver {driver.version} is of {_dotted(driver.cuda)}"
        mend = "this runs (minor versions are compatible), but kernels compiled on the fly may not: update the driver"
        yield Finding("note", "driver_minor", what, mend)


def _gpus(machine: Machine) -> Iterator[Finding]:
    for index, gpu in enumerate(machine.gpus):
        if gpu.capability and gpu.capability < OLDEST_CAPABILITY:
            what = f"GPU {index}, {gpu.name}, has compute capability {_dotted(gpu.capability)}"
            mend = f"vLLM's wheels need {_dotted(OLDEST_CAPABILITY)}: use llama.cpp or Ollama on it, or vLLM on the CPU"
            yield Finding("error" if machine.device == "gpu" else "warning", "gpu_old", what, mend)


def _cpu(machine: Machine) -> Iterator[Finding]:
    cpu = machine.cpu
    intel = cpu.kind.lower() in ("x86_64", "amd64")
    if intel and cpu.features is not None and machine.device == "cpu":
        if "avx2" not in cpu.features:
            mend = "use another CPU, or llama.cpp, which needs less; in a VM, pass the host's CPU through"
            yield Finding("error", "no_avx2", "this CPU has no AVX2, which vLLM's CPU build needs", mend)
        elif "avx512f" not in cpu.features:
            yield Finding("note", "no_avx512", "this CPU has no AVX-512: vLLM runs, slower")
    if cpu.limit is not None and cpu.limit < cpu.cores:
        what = f"the cgroup grants {cpu.limit:g} of {cpu.cores} cores"
        mend = f"set local_engine.vllm.cpu.threads to {max(1, int(cpu.limit))}, or raise the limit"
        yield Finding("warning" if machine.device == "cpu" else "note", "cpu_limited", what, mend)


def _memory(machine: Machine) -> Iterator[Finding]:
    limit = machine.memory.limit
    if not machine.memory.total:
        yield Finding("warning", "memory_unknown", "how much memory there is cannot be read here: it counts as none")
    if limit is not None and limit < machine.memory.total:
        what = f"the cgroup grants {gib(limit)} of {gib(machine.memory.total)} of memory"
        yield Finding("note", "memory_limited", what, "raise the container's memory limit to use more")


def advise(model: Model, machine: Machine, asked: Asked, found: Fit) -> tuple[Finding, ...]:
    """Return why a model does not fit as asked and what would; nothing where it fits."""
    if found.obstacle:
        return (Finding("error", "no_place", found.obstacle, "mend the GPU, or ask for fewer"),)
    busy = (*_busy(machine, asked), *_uncounted(model))
    if found.verdict is Verdict.FITS:
        return busy
    where = "each GPU" if found.device == "gpu" else "this machine"
    if found.verdict is Verdict.SHORTER:
        what = (
            f"its own context, {found.context} tokens, takes {gib(found.short_bytes)} more than {where} has; "
            "vLLM refuses to start with it"
        )
        return (*busy, Finding("warning", "context_too_long", what, f"set max_model_len to {found.longest} or less"))
    granted = asked.kv_cache_bytes if found.device == "cpu" else None
    if granted is not None and found.context_bytes > found.kv_cache_bytes:
        what = (
            f"{model.name} with a context of {found.context} needs {gib(found.context_bytes)} of KV cache, and is "
            f"granted {gib(found.kv_cache_bytes)}: {gib(found.context_bytes - found.kv_cache_bytes)} too little"
        )
    else:
        with_what = f"a context of {found.context}" if granted is None else f"{gib(found.kv_cache_bytes)} of KV cache"
        what = (
            f"{model.name} with {with_what} needs {gib(found.budget_bytes + found.short_bytes)}, and {where} has "
            f"{gib(found.budget_bytes)} for it: {gib(found.short_bytes)} too little"
        )
    return (*busy, Finding("error", "too_big", what, "; or ".join(_ways(model, machine, asked, found))))


def _busy(machine: Machine, asked: Asked) -> Iterator[Finding]:
    for index, gpu in enumerate(machine.gpus[: asked.tensor_parallel_size] if machine.device == "gpu" else ()):
        wanted = int(gpu.memory * asked.gpu_memory_utilization)
        if gpu.free < wanted:
            what = f"GPU {index} has {gib(gpu.free)} free, and vLLM is to take {gib(wanted)}: it refuses to start"
            share = max(0.01, int(gpu.free / gpu.memory * 100) / 100)
            mend = f"end what else runs on it, or set gpu_memory_utilization to {share:g}"
            yield Finding("error", "gpu_busy", what, mend)


def _uncounted(model: Model) -> Iterator[Finding]:
    if layers := model.shape.stateful_layers:
        what = f"{layers} of its {model.shape.depth} layers keep a state of fixed size per stream, which is not counted"
        yield Finding("note", "state_uncounted", what)


def _ways(model: Model, machine: Machine, asked: Asked, found: Fit) -> Iterator[str]:
    """Say what would make it fit, the least change first."""
    free = replace(asked, max_model_len=None)
    if asked.max_model_len and (longest := fit(model, machine, free).longest) >= SHORTEST:
        yield f"set max_model_len to {longest} or less"
    if found.device == "cpu" and asked.kv_cache_bytes is not None:
        spare = found.budget_bytes - found.weights_bytes - found.activation_bytes - found.runtime_bytes
        here = asked.tensor_parallel_size
        per_worker = max(0, spare) // here
        if per_worker * here >= found.context_bytes > 0:
            least, most = ceil(found.context_bytes / here / GIB * 100), floor(per_worker / GIB * 100)
            yield f"set cpu.kv_cache_gib between {least / 100:g} and {most / 100:g}"
    fp8 = fit(model, machine, replace(asked, kv_cache_dtype="fp8"))
    if asked.kv_cache_dtype == "auto" and fp8.verdict is not Verdict.TOO_BIG:
        yield "keep the KV cache in fp8"
    for bits in (8, 4):
        if bits >= model.bits:
            continue
        smaller = replace(model, weights=Weights(packed_bytes=round(model.parameters * bits / 8)), folder_bytes=0)
        there = fit(smaller, machine, replace(asked, quantization=None))
        if there.verdict is not Verdict.TOO_BIG:
            size = gib(loaded_bytes(smaller, asked, computed_width(smaller, machine, asked)))
            shorter = f" and max_model_len {there.longest}" if there.verdict is Verdict.SHORTER else ""
            yield f"take it quantized to {bits} bits ({size} of weights){shorter}"
            break
    for shards in (2, 4, 8):
        if found.device == "gpu" and asked.tensor_parallel_size < shards <= len(machine.gpus):
            there = fit(model, machine, replace(asked, tensor_parallel_size=shards))
            if there.verdict is not Verdict.TOO_BIG:
                yield f"set tensor_parallel_size to {shards}"
                break
    sizes = ("70B", "32B", "14B", "8B", "3B", "1B")
    smaller_ones = (other for size in sizes if (other := sized(f"{size}@4")) and other.parameters < model.parameters)
    for other in smaller_ones:
        if fit(other, machine, replace(asked, max_model_len=None)).verdict is not Verdict.TOO_BIG:
            yield f"take a smaller model: {other.name} fits"
            return
    yield "give it more memory"


def gib(size: int) -> str:
    """Write bytes: 12.3 GiB, 300 MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
