"""How several engines share one machine, and whether they fit together: arithmetic alone. See docs/machine.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from spillway.doctor.configuration import EnginePart
from spillway.doctor.diagnosis import Finding, gib
from spillway.doctor.fit import GIB, RUNTIME_BYTES, Asked, fit
from spillway.doctor.machine import Machine
from spillway.doctor.weights import Model

GPU_MEMORY = 0.85
"""Of a GPU's memory, shared by the engines on it that are not told their share: what one alone takes by default."""


@dataclass(frozen=True, slots=True)
class Lot:
    """What one engine gets. `machine` is what there is for it; `asked` says so to vLLM.

    `cores`: the system's numbers of those it runs on, empty: any. `devices`: those of its GPUs, empty: none or any.
    `beside`: what the others take of the same memory, in words.
    """

    machine: Machine
    asked: Asked
    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    beside: str = ""

    @property
    def place(self) -> str:
        """Where it runs, in words."""
        places = (
            f"cores {_list(self.cores)}" if self.cores else "",
            f"GPU {_list(self.devices)}" if self.devices else "",
        )
        return ", ".join(filter(None, places)) or "anywhere"

    def __repr__(self) -> str:
        return f"<Lot {self.place}>"


@dataclass(frozen=True, slots=True)
class Division:
    """A machine shared out: a lot for each engine that vLLM runs, and why that is impossible, where it is."""

    lots: Mapping[str, Lot]
    findings: tuple[Finding, ...] = ()


def divide(
    machine: Machine, engines: Mapping[str, EnginePart], models: Mapping[str, Model | None], *, margin: bool = True
) -> Division:
    """Share `machine` out among `engines`; the same for all of them, in whatever order they come.

    A model that is not known, None, counts as no weights. Without `margin` an engine is left all that others do not
    take for certain, as in `fit`.
    """
    residents = {name: engines[name] for name in sorted(engines) if engines[name].runtime.kind == "vllm"}
    findings: list[Finding] = []
    cores = _cores(machine, residents, findings)
    on_gpus = machine.device == "gpu" and bool(machine.gpus)
    shared = _gpus(machine, residents, findings) if on_gpus else _memory(machine, residents, models, margin, findings)
    lots = {name: replace(lot, cores=cores.get(name, ())) for name, lot in shared.items()}
    return Division(lots, tuple(findings))


def _cores(
    machine: Machine, residents: Mapping[str, EnginePart], findings: list[Finding]
) -> Mapping[str, tuple[int, ...]]:
    """Engines on CPUs have cores of their own; on GPUs only those that say so."""
    bound = {name: _numbers(part.vllm.cpu.bind) for name, part in residents.items()}
    taken: dict[int, str] = {}
    for name, numbers in bound.items():
        for number in numbers:
            if (other := taken.setdefault(number, name)) != name:
                what = f"{other} and {name} are both bound to core {number}"
                findings.append(Finding("error", "cores_shared", what, "give each its own in vllm.cpu.bind"))
    free = [number for number in machine.cpu.ids if number not in taken]
    told = {name: part.share.cores for name, part in residents.items() if part.share.cores and not bound[name]}
    untold = [
        name
        for name, part in residents.items()
        if name not in told and part.vllm.cpu.bind == "auto" and machine.device == "cpu"
    ]
    left = len(free) - sum(told.values())
    if not machine.cpu.ids or len(residents) < 2 or (not told and left < len(untold)):
        return {}  # nothing to bind, or too few cores to give each one: they share them all
    if left < len(untold):
        stated = [f"{name} {number}" for name, number in told.items()] + [f"{name} 1 or more" for name in untold]
        what = f"of {len(free)} cores {', '.join(stated)} are asked for"
        findings.append(Finding("error", "cores_short", what, "lower share.cores"))
        return {}
    even = {name: left // len(untold) + (place < left % len(untold)) for place, name in enumerate(untold)}
    found = {}
    for name, number in sorted({**told, **even}.items()):
        found[name], free = tuple(free[:number]), free[number:]
    return found


def _memory(
    machine: Machine,
    residents: Mapping[str, EnginePart],
    models: Mapping[str, Model | None],
    margin: bool,
    findings: list[Finding],
) -> dict[str, Lot]:
    """On CPUs all take from one memory: an engine its share, or what its weights and its KV cache need."""
    total = machine.memory.available
    budgets = {name: int(part.share.memory * total) for name, part in residents.items() if part.share.memory}
    if sum(budgets.values()) > total + len(budgets):
        stated = ", ".join(f"{name} {residents[name].share.memory:g}" for name in budgets)
        findings.append(Finding("error", "memory_shared", f"shares of memory are more than all of it: {stated}"))
    fixed = {name: _fixed(machine, part, models[name], margin=True) for name, part in residents.items()}
    kept = {}
    for name, part in residents.items():
        left = budgets.get(name, 0) - fixed[name]
        unstated = "kv_cache_gib" not in part.vllm.cpu.model_fields_set
        told = part.vllm.tensor_parallel_size * round(part.vllm.cpu.kv_cache_gib * GIB)
        kept[name] = left if unstated and left > 0 else told
    takes = {
        name: budgets.get(name, _fixed(machine, part, models[name], margin=margin) + kept[name])
        for name, part in residents.items()
    }
    lots = {}
    for name, part in residents.items():
        others = {other: taken for other, taken in takes.items() if other != name}
        left = budgets.get(name, max(0, total - sum(others.values())))
        lots[name] = Lot(
            replace(machine, memory=replace(machine.memory, available=left)),
            replace(part.vllm.asked(), kv_cache_bytes=kept[name] // part.vllm.tensor_parallel_size),
            beside=", ".join(f"{other} takes {gib(taken)}" for other, taken in others.items()),
        )
    return lots


def _fixed(machine: Machine, part: EnginePart, model: Model | None, *, margin: bool) -> int:
    """Bytes of all but the KV cache."""
    if model is None:
        return part.vllm.tensor_parallel_size * RUNTIME_BYTES if margin else 0
    found = fit(model, machine, part.vllm.asked(), margin=margin)
    return found.weights_bytes + found.activation_bytes + found.runtime_bytes


def _gpus(machine: Machine, residents: Mapping[str, EnginePart], findings: list[Finding]) -> dict[str, Lot]:
    """Engines get GPUs of their own while there are as many; else those without `devices` share what is left."""
    count = len(machine.gpus)
    devices = {name: part.share.devices for name, part in residents.items() if part.share.devices}
    for name, numbers in devices.items():
        if missing := [number for number in numbers if number >= count or number < 0]:
            what = f"{name} names GPU {missing[0]}, and there are {count}, counted from 0"
            findings.append(Finding("error", "device_missing", what, "mend share.devices"))
    free = [number for number in range(count) if all(number not in numbers for numbers in devices.values())]
    wants = {name: _wanted_gpus(part) for name, part in residents.items() if name not in devices}
    own = sum(wants.values()) <= len(free)
    for name, wanted in wants.items():
        devices[name] = tuple(free[:wanted])
        if own:
            free = free[wanted:]
        if not devices[name]:
            findings.append(Finding("error", "device_missing", f"no GPU is left for {name}", "mend share.devices"))
    told = {name: share for name, part in residents.items() if (share := _gpu_share(part)) is not None}
    shares = dict(told)
    for name in residents:
        if name not in told:
            shares[name] = min((_left(number, name, devices, told) for number in devices[name]), default=GPU_MEMORY)
    for number in range(count):
        there = {name: shares[name] for name in residents if number in devices[name]}
        if len(there) > 1 and (sum(there.values()) > 1 + 1e-9 or min(there.values()) <= 0):
            size = machine.gpus[number].memory
            parts = ", ".join(f"{name} {share:.2f} ({gib(int(share * size))})" for name, share in there.items())
            what = f"GPU {number} has {gib(size)}, and its engines are to take more than all: {parts}"
            mend = "lower share.memory, or give them other share.devices"
            findings.append(Finding("error", "gpu_shared", what, mend))
    lots = {}
    for name, part in residents.items():
        mine = tuple(number for number in devices[name] if 0 <= number < count)
        asked = replace(part.vllm.asked(), gpu_memory_utilization=max(0.01, shares[name]))
        beside = [
            f"{other} has {shares[other]:.2f} of GPU {_list(devices[other])}" for other in residents if other != name
        ]
        gpus = tuple(machine.gpus[number] for number in mine)
        lots[name] = Lot(replace(machine, gpus=gpus), asked, devices=mine, beside="; ".join(beside))
    return lots


def _wanted_gpus(part: EnginePart) -> int:
    return part.vllm.tensor_parallel_size * part.vllm.pipeline_parallel_size * part.vllm.data_parallel_size


def _gpu_share(part: EnginePart) -> float | None:
    """The share that an engine is told, in vLLM's own words or in ours."""
    stated = "gpu_memory_utilization" in part.vllm.model_fields_set
    return part.vllm.gpu_memory_utilization if stated else part.share.memory


def _left(number: int, name: str, devices: Mapping[str, tuple[int, ...]], told: Mapping[str, float]) -> float:
    """An even part of what those who are told leave of GPU `number`, in whole hundredths."""
    there = [other for other, numbers in devices.items() if number in numbers]
    left = GPU_MEMORY - sum(told.get(other, 0.0) for other in there)
    return int(100 * left / sum(other not in told for other in there) + 1e-6) / 100


def _numbers(bind: str) -> tuple[int, ...]:
    """Return the cores that vLLM's notation names: 0-3,6|8-11."""
    found: list[int] = []
    for part in bind.replace("|", ",").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last.isdecimal() or not last):
            found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
