"""Names and sizes: what a tool can see of the house's habits."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
GENERATED = "spillway/v1/"
VAGUE = frozenset({"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"})
LONGEST_MODULE = 400  # lines

MACHINE_PATH = re.compile(r"(?<![\w.*-])/(?:work|root|workspace|Users/\w+|home/\w+|opt/\w+|tmp/\w+)/")
REGISTRIES = ("npmjs" + ".org", "pythonhosted" + ".org", "pypi" + ".org", "pypi" + ".python")
SECRET = re.compile(
    r"\b(?:sk-(?:proj-|ant-)?[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|-----BEGIN \w+ PRIVATE)"
)


@cache
def tree() -> tuple[str, ...]:
    """Paths of every file that is, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(path for path in sorted(set(told.splitlines())) if (ROOT / path).is_file())


def modules() -> list[str]:
    return [path for path in tree() if path.endswith(".py") and not path.startswith(GENERATED)]


def texts() -> Iterator[tuple[str, str]]:
    """Path and content of every text file."""
    for path in tree():
        try:
            yield path, (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue  # weights and the like


def test_every_module_is_named_after_a_noun() -> None:
    vague = [path for path in modules() if VAGUE & set(Path(path).with_suffix("").parts)]
    assert not vague


def test_no_module_asks_to_be_two() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in modules() if not path.startswith("tests/")}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_every_service_has_the_same_rooms() -> None:
    rooms = ("__init__", "__main__", "settings", "app", "servicer")
    services = {Path(path).parts[1] for path in tree() if path.startswith("services/") and path.count("/") > 1}
    wanted = {f"services/{service}/{room}.py" for service in services for room in rooms}
    assert wanted - set(tree()) == set()


def test_the_environment_is_read_at_the_edge_alone() -> None:
    edges = (
        "spillway/process.py",
        "spillway/leash.py",
        "spillway/cli/",
        "services/local_engine/spawned.py",  # a process that vLLM starts is told nothing else
        "services/local_engine/vllm_backend.py",  # vLLM is told some things by the environment alone
    )
    reads = re.compile(r"(?<!leashed\(dict\()\bos\.(?:environ|getenv)\b")  # what a child is given is not read
    elsewhere = [
        path
        for path in modules()
        if path.startswith(("spillway/", "services/"))
        and not path.startswith(edges)
        and not path.endswith(("/app.py", "/__main__.py"))
        and reads.search((ROOT / path).read_text())
    ]
    assert not elsewhere


def test_only_the_vllm_modules_know_vllm() -> None:
    imports = re.compile(r"^\s*(?:import|from) (?:vllm|torch|transformers)\b", re.MULTILINE)
    knowing = {
        path
        for path in modules()
        if path.startswith(("spillway/", "services/")) and imports.search((ROOT / path).read_text())
    }
    assert {path for path in knowing if not path.startswith("services/local_engine/vllm_")} == set()


def test_nothing_names_a_machine() -> None:
    found = [(path, hit.group()) for path, text in texts() if (hit := MACHINE_PATH.search(text))]
    assert not found


def test_nothing_names_a_package_registry() -> None:
    assert [(path, host) for path, text in texts() for host in REGISTRIES if host in text] == []


def test_nothing_holds_a_secret() -> None:
    assert [path for path, text in texts() if SECRET.search(text)] == []


def test_tests_are_found_by_path_alone() -> None:
    assert [path for path in tree() if path.startswith("tests/") and path.endswith("__init__.py")] == []
