"""The image files, read as a builder would: one per service, pinned, unprivileged, and made of what is here."""

from __future__ import annotations

import fnmatch
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[3]
IMAGES = sorted((ROOT / "deploy" / "images").glob("*.Dockerfile"))
PORTS = {"router": "7070", "local_engine": "7071", "cloud_proxy": "7072", "validator": "7073"}
ENGINES = {"vllm", "torch"}


def read(image: Path) -> list[dict[str, Any]]:
    """Instructions of a Dockerfile, in order."""
    parser = DockerfileParser(fileobj=BytesIO(image.read_bytes()))
    return [step for step in parser.structure if step["instruction"] != "COMMENT"]


def last_stage(image: Path) -> list[dict[str, Any]]:
    steps = read(image)
    start = max(index for index, step in enumerate(steps) if step["instruction"] == "FROM")
    return steps[start:]


def values(steps: list[dict[str, Any]], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


def service(image: Path) -> str:
    return image.name.split(".")[0]


def copied(image: Path) -> list[str]:
    """What the image takes from the repository."""
    sources: list[str] = []
    for value in values(read(image), "COPY"):
        if "--from=" not in value:
            sources += value.split()[:-1]
    return sources


each_image = pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)


def test_every_service_has_an_image_and_the_engine_one_per_kind_of_node() -> None:
    services = {path.name for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists()}
    assert {service(image) for image in IMAGES} == services
    assert {image.name for image in IMAGES if service(image) == "local_engine"} == {
        "local_engine.cpu.Dockerfile",
        "local_engine.gpu.Dockerfile",
    }


@each_image
def test_base_images_are_pinned_to_a_release(image: Path) -> None:
    for base in values(read(image), "FROM"):
        assert re.search(r":v?\d+\.\d+\.\d+(-[a-z-]+)?( AS \w+)?$", base), base


@each_image
def test_all_that_is_copied_is_there_and_reaches_the_builder(image: Path) -> None:
    kept = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    for source in copied(image):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in kept), source


@each_image
def test_an_image_holds_its_own_service_and_no_other(image: Path) -> None:
    services = {source for source in copied(image) if source.startswith("services/")}
    assert services == {"services/__init__.py", f"services/{service(image)}"}


@each_image
def test_an_image_runs_its_service_unprivileged_and_tells_its_health(image: Path) -> None:
    steps = last_stage(image)
    (user,) = values(steps, "USER")
    assert user not in ("root", "0")
    (entry,) = values(steps, "ENTRYPOINT")
    assert json.loads(entry)[1:] == ["-m", f"services.{service(image)}"]
    port = PORTS[service(image)]
    assert values(steps, "EXPOSE") == [port]
    (health,) = values(steps, "HEALTHCHECK")
    assert json.loads(health[health.index("[") :])[1:] == ["-m", "spillway.probe", f"127.0.0.1:{port}"]


@each_image
def test_libraries_come_from_the_locks_with_their_hashes(image: Path) -> None:
    installs = [
        part
        for run in values(read(image), "RUN")
        for part in run.split("&&")
        if re.search(r"\bpip\b.*\binstall\b", part)
    ]
    assert installs
    for install in installs:
        assert "--require-hashes" in install
        assert "--no-deps" in install
        assert re.search(r"-r /locks/[a-z-]+\.txt", install)


def test_the_gpu_image_stands_on_the_vllm_that_the_lock_names() -> None:
    (base,) = values(read(ROOT / "deploy" / "images" / "local_engine.gpu.Dockerfile"), "FROM")
    locked = re.search(r"^vllm==(\S+)", (ROOT / "requirements" / "vllm-gpu.txt").read_text(), re.MULTILINE)
    assert locked
    assert base == f"vllm/vllm-openai:v{locked.group(1)}"
