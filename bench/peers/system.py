"""The systems that are measured: how each is started between the callers and the upstream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml

from bench.peers import engine, provider
from bench.peers.environment import Missing, Place, nginx, python_package
from bench.peers.load import Found, Load
from bench.peers.tree import Tree
from bench.processes import Measured, free_address

START_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Addresses of what is behind every system."""

    engine: str
    provider: str

    def behind(self, wire: str) -> str:
        """What a caller of this wire would reach with nothing between."""
        return self.provider if wire == "http" else self.engine


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a system, and where it then listens."""

    words: list[str]
    address: str
    environment: Mapping[str, str] = field(default_factory=dict)


Started = Callable[[Place, Upstreams, Path], Command]


@dataclass(frozen=True, slots=True)
class System:
    """One system. `wire` is how it is called, `model` what callers name, `place` where it is found."""

    name: str
    wire: str
    model: str
    place: Callable[[], Place]
    command: Started | None

    @property
    def ours(self) -> bool:
        return self.name.startswith("Spillway")

    @property
    def direct(self) -> bool:
        """Nothing is between callers and upstream."""
        return self.command is None


class Running:
    """A system that runs."""

    def __init__(self, system: System, version: str, address: str, tree: Tree | None) -> None:
        self.system = system
        self.version = version
        self.tree = tree
        self.address = address

    def ask(self, client: Measured, load: Load) -> Found:
        """Have `client` put `load` on it. Raises RuntimeError where the client ended."""
        told = {
            "wire": self.system.wire,
            "address": self.address,
            "model": self.system.model,
            "load": {"kind": load.kind, "callers": load.callers, "seconds": load.seconds},
        }
        line = client.ask(json.dumps(told))
        if not line:
            raise RuntimeError(f"the client ended under {load} on {self.system.name}")
        return Found.read(json.loads(line))

    def __repr__(self) -> str:
        return f"<Running {self.system.name} {self.version} {self.address}>"


@contextmanager
def running(system: System, upstreams: Upstreams, client: Measured, folder: Path) -> Iterator[Running]:
    """Run `system` for the block, warm. Raises Missing where it cannot be had, does not start or does not answer."""
    if system.command is None:
        yield Running(system, "", upstreams.behind(system.wire), None)
        return
    place = system.place()
    own = folder / system.name.replace(" ", "-")
    own.mkdir()
    command = system.command(place, upstreams, own)
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
        try:
            found = Running(system, place.version, command.address, Tree(process.pid))
            _await_answers(found, client, process, own / "log")
            yield found
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
                process.wait()


def _await_answers(found: Running, client: Measured, process: subprocess.Popen[bytes], log: Path) -> None:
    until, told = time.monotonic() + START_S, Found()
    host, _, port = found.address.rpartition(":")
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                pass
            told = found.ask(client, Load("calls", 1, 0.2))
        except OSError as error:
            told = Found(error=str(error))
        if told.calls and not told.failed:
            return
        time.sleep(0.3)
    lines = log.read_text(errors="replace").strip().splitlines()
    why = lines[-1][:200] if process.poll() is not None and lines else told.error or "no answer"
    raise Missing(f"did not start: {why}")


def _here() -> Place:
    return Place(Path(sys.executable).parent, metadata.version("spillway"))


def _nowhere() -> Place:
    raise Missing("there is nothing to start")


def _router(place: Place, upstreams: Upstreams, folder: Path, *, http: bool = False) -> Command:
    """A router with everything on but cache and validation, one trace in a hundred exported."""
    listen = {"grpc": free_address(), "http": free_address()}
    target = {
        "name": engine.MODEL,
        "kind": "local",
        "address": upstreams.engine,
        "context_window": 100_000,
        "capabilities": ["text_input", "token_input", "json_schema"],
        "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
    }
    section: dict[str, Any] = {
        "server": {"listen": listen["grpc"], "announce_s": 0, "drain_s": 1},
        "http": {"listen": listen["http"]},
        "targets": [target],
        "ledger": {"url": f"sqlite:///{folder}/ledger.sqlite"},
        "telemetry": {
            "otlp_endpoint": f"http://{upstreams.engine}",
            "sample_ratio": 0.01,
            "metrics_listen": free_address(),
        },
    }
    config = folder / "spillway.yaml"
    config.write_text(yaml.safe_dump({"router": section}))
    words = [place.program("python"), "-m", "services.router", "--config", str(config)]
    return Command(words, listen["http" if http else "grpc"], {"GRPC_VERBOSITY": "NONE"})


def _edge(place: Place, upstreams: Upstreams, folder: Path) -> Command:
    return _router(place, upstreams, folder, http=True)


def _nginx(place: Place, upstreams: Upstreams, folder: Path) -> Command:
    address = free_address()
    folders = "\n".join(
        f"  {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # its workers read a folder that is ours alone
    config = folder / "nginx.conf"
    config.write_text(
        f"""{user}
worker_processes auto;
worker_rlimit_nofile 8192;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
{folders}
  upstream engine {{ server {upstreams.engine}; keepalive 1024; }}
  server {{
    listen {address} http2;
    http2_max_concurrent_streams 4096;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    location / {{ grpc_pass grpc://engine; grpc_read_timeout 300s; grpc_send_timeout 300s; }}
  }}
}}
"""
    )
    return Command([place.program("nginx"), "-c", str(config), "-p", str(folder)], address)


def _envoy(place: Place, upstreams: Upstreams, folder: Path) -> Command:
    address = free_address()
    kinds = "type.googleapis.com/envoy.extensions"
    http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
    manager = {
        "@type": f"{kinds}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {"max_concurrent_streams": 4096},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{kinds}.filters.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ]
        },
    }
    limits = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    cluster = {
        "name": "engine",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{kinds}.upstreams.http.v3.HttpProtocolOptions",
                **http2,
            }
        },
        "load_assignment": {
            "cluster_name": "engine",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(upstreams.engine)}}]}],
        },
    }
    listener = {
        "name": "in",
        "address": _socket(address),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    config = folder / "envoy.yaml"
    config.write_text(yaml.safe_dump({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    options = ["--disable-hot-restart", "--log-level", "warning"]
    return Command([place.program("envoy"), "-c", str(config), *options], address)


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _worker_router(program: str, *first: str) -> Started:
    """vllm-router and smg: one is what became of the other's beginnings, and both are told the same."""

    def command(place: Place, upstreams: Upstreams, folder: Path) -> Command:
        address, metrics = free_address(), free_address()
        host, _, port = address.rpartition(":")
        options = {
            "--host": host,
            "--port": port,
            "--worker-urls": f"http://{upstreams.provider}",
            "--policy": "round_robin",
            "--prometheus-host": host,
            "--prometheus-port": metrics.rpartition(":")[2],
            "--log-level": "warn" if first else "warning",
        }
        words = [word for option in options.items() for word in option]
        return Command([place.program(program), *first, *words], address)

    return command


def _litellm(place: Place, upstreams: Upstreams, folder: Path) -> Command:
    """As its page on production has it: no debugging, logs of errors alone; a worker for each core is its default."""
    address = free_address()
    host, _, port = address.rpartition(":")
    model = {"model": f"openai/{provider.MODEL}", "api_base": f"http://{upstreams.provider}/v1", "api_key": "none"}
    config = folder / "litellm.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [{"model_name": provider.MODEL, "litellm_params": model}],
                "litellm_settings": {"set_verbose": False, "json_logs": True, "request_timeout": 600},
            }
        )
    )
    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network at every start
        "LITELLM_TELEMETRY": "False",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # nobody is asked for a key here
    }
    words = [place.program("litellm"), "--config", str(config), "--host", host, "--port", port]
    return Command(words, address, environment)


SYSTEMS: Final = (
    System("direct session", "session", "", _nowhere, None),
    System("direct gRPC", "grpc", "", _nowhere, None),
    System("direct HTTP", "http", provider.MODEL, _nowhere, None),
    System("Spillway session", "session", "", _here, _router),
    System("Spillway gRPC", "grpc", "", _here, _router),
    System("nginx grpc_pass", "grpc", "", nginx, _nginx),
    System("Envoy", "grpc", "", lambda: python_package("envoy"), _envoy),
    System("Spillway HTTP", "http", "auto", _here, _edge),
    System("vllm-router", "http", provider.MODEL, lambda: python_package("vllm-router"), _worker_router("vllm-router")),
    System("smg", "http", provider.MODEL, lambda: python_package("smg"), _worker_router("smg", "launch")),
    System("LiteLLM", "http", provider.MODEL, lambda: python_package("litellm"), _litellm),
)
