"""What a mesh on this machine consists of: addresses, files, and the environment of its processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spillway.cli import configuration, ports, state
from spillway.settings import SettingsError, engines, overlay, read_environment, read_mesh

SERVICES = ("validator", "router", "cloud_proxy", "local_engine")
"""In the order of their start: what starts quickest first, so that the engine's start has the processor for itself."""
ENGINE = "local_engine"
"""One of several is called `local_engine NAME`."""
SIMULATOR = "openai_simulator"
DEFAULT_BASE = 7070
OFFSETS = {"router": 0, "local_engine": 1, "cloud_proxy": 2, "validator": 3, SIMULATOR: 9}
"""Service -> its port, counted from the port base."""
EDGE = "openai_edge"
EDGE_OFFSET = 10
"""The router's OpenAI-compatible listener: another port of a service that has one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    config: Path | None = None
    model: str | None = None
    port_base: int = DEFAULT_BASE
    log_dir: Path | None = None
    engine_command: tuple[str, ...] | None = None
    folder: Path = field(default_factory=lambda: Path.cwd() / state.FOLDER)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is. `notes` are sentences a person should read."""

    folder: Path
    config: Path
    log_dir: Path
    addresses: Mapping[str, str]
    """Service -> host:port that this machine can dial."""
    commands: Mapping[str, Sequence[str]]
    """Service -> program and arguments."""
    environ: Mapping[str, str]
    """What every service is told besides the configuration."""
    model: str
    http: str = ""
    """host:port of the OpenAI-compatible edge; empty if there is none."""
    embeds_store: bool = True
    embeds_collector: bool = True
    notes: tuple[str, ...] = ()

    @property
    def simulated_cloud(self) -> bool:
        return SIMULATOR in self.addresses


def lay_out(wanted: Wanted, environ: Mapping[str, str]) -> Layout:
    """Decide where everything goes, and write the configuration unless one was given.

    Raises SettingsError where a given configuration cannot be run by `spillway up`.
    """
    wanted.folder.mkdir(parents=True, exist_ok=True)
    told = dict(read_environment(environ))
    extra = {} if "GRPC_VERBOSITY" in environ else {"GRPC_VERBOSITY": "ERROR"}  # else it tells every channel's end
    notes: list[str] = []
    if wanted.model:
        extra["SPILLWAY_LOCAL_ENGINE__MODEL"] = _model(wanted.model)
    if wanted.config is not None:
        config = wanted.config.resolve()
        file = read_mesh(config)
        named = engines(file, told)
        told = overlay(file, told)
        if wanted.model and len(named) > 1:
            raise SettingsError(f"--model: is for one engine, and {config} names {', '.join(named)}: set it there")
        addresses = _configured(told, named)
        http = _edge(told)
        if "cloud_proxy" not in addresses:
            notes.append("no provider is configured (cloud_proxy.providers): nothing leaves this machine")
    else:
        config = wanted.folder / "spillway.yaml"
        simulated = not environ.get(configuration.PROVIDER_KEY)
        addresses = _addresses(wanted.port_base, simulated, notes)
        bundled = not wanted.model and "SPILLWAY_LOCAL_ENGINE__MODEL" not in environ
        http = addresses[EDGE]
        config.write_text(
            configuration.default(addresses, ledger=str(wanted.folder / "ledger.sqlite"), bundled=bundled)
        )
        del addresses[EDGE]
    shared = told.get("shared") or {}
    return Layout(
        folder=wanted.folder,
        config=config,
        log_dir=(wanted.log_dir or wanted.folder / "logs").resolve(),
        addresses=addresses,
        commands=_commands(config, addresses, wanted.engine_command),
        environ=extra,
        model=wanted.model or environ.get("SPILLWAY_LOCAL_ENGINE__MODEL", ""),
        http=http,
        embeds_store=not (shared.get("store") or {}).get("url"),
        embeds_collector=not (shared.get("telemetry") or {}).get("otlp_endpoint"),
        notes=tuple(notes),
    )


def log_file(folder: Path, name: str) -> Path:
    """Return where the log of the process `name` is."""
    return folder / f"{name.replace(' ', '.')}.log"


def _model(wanted: str) -> str:
    """Return a folder's whole path, since services run elsewhere; anything else as it is."""
    return str(Path(wanted).resolve()) if Path(wanted).is_dir() else wanted


def _addresses(base: int, simulated: bool, notes: list[str]) -> dict[str, str]:
    wanted = {name: base + offset for name, offset in OFFSETS.items() if simulated or name != SIMULATOR}
    wanted[EDGE] = base + EDGE_OFFSET
    chosen = ports.choose(wanted)
    notes += [
        f"port {wanted[name]} is taken: {name} listens on {port}"
        for name, port in chosen.items()
        if port != wanted[name]
    ]
    return {name: f"{ports.LOOPBACK}:{port}" for name, port in chosen.items()}


def _configured(told: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the services that a configuration describes, and where this machine reaches each.

    The cloud proxy is one where it has a provider.
    """
    found = {}
    for service in SERVICES:
        if service == ENGINE and named:
            for name, section in named.items():
                found[f"{ENGINE} {name}"] = _listens(section, f"{ENGINE}s.{name}", ENGINE)
        elif service != "cloud_proxy" or (told.get(service) or {}).get("providers"):
            found[service] = _listens(told.get(service) or {}, service, service)
    return found


def _listens(section: Mapping[str, Any], path: str, service: str) -> str:
    """Return where this machine reaches the service that `section`, at `path`, describes."""
    default = f"{ports.LOOPBACK}:{DEFAULT_BASE + OFFSETS[service]}"
    listen = str((section.get("server") or {}).get("listen", default))
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) == 0:
        raise SettingsError(f"{path}.server.listen: {listen!r}: `spillway up` needs a port that is not 0")
    return f"{_dialled(host)}:{port}"


def _edge(told: Mapping[str, Any]) -> str:
    """Return where this machine reaches the edge that a configuration describes; empty if that is not known."""
    listen = str((((told.get("router") or {}).get("http")) or {}).get("listen") or "")
    host, _, port = listen.rpartition(":")
    return f"{_dialled(host)}:{port}" if port.isdecimal() and int(port) else ""


def _dialled(host: str) -> str:
    """Return the host by which this machine reaches one that listens on `host`."""
    return ports.LOOPBACK if host in ("0.0.0.0", "[::]", "::", "") else host


def _commands(config: Path, addresses: Mapping[str, str], command: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    commands: dict[str, tuple[str, ...]] = {}
    if SIMULATOR in addresses:
        port = addresses[SIMULATOR].rpartition(":")[2]
        commands[SIMULATOR] = (sys.executable, "-m", f"spillway.testing.{SIMULATOR}", "--port", port)
    for name in addresses:
        service, _, engine = name.partition(" ")
        if service not in SERVICES:
            continue
        program = command if command and service == ENGINE else (sys.executable, "-m", f"services.{service}")
        which = ("--name", engine) if engine else ()
        commands[name] = (*program, "--config", str(config), *which)
    return commands
