"""Processes under measurement, and the CPU time they use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_S = 300.0


class Measured:
    """A process and the address it serves."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid

    def ask(self, line: str) -> str:
        """Write a line to the process and return the line it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def resident_bytes(self) -> int:
        """Memory that the process and its children hold, in bytes."""
        pids = (self.pid, *self._children())
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """User and system time used so far, in seconds, by the CPU-time clock that Linux has for each process."""
        return _cpu_s(self.pid)

    def children_cpu_s(self) -> list[float]:
        """The same of each process that it has started."""
        return [_cpu_s(pid) for pid in self._children()]

    def waited_s(self) -> float:
        """Time that its threads were ready to run and had no core, in seconds: the machine's stalls, not its own."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[1]) for thread in threads) / 1e9

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def _cpu_s(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)


def free_address() -> str:
    """A loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def started(*arguments: str, address: str | None = None, http: bool = False) -> Iterator[Measured]:
    """Run `python -m ARGUMENTS` for the block. Without `address` the process prints its own first; else it is ready
    when its gRPC health says so, or with `http` its /health."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    try:
        assert process.stdout is not None
        if address is None:
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"{arguments[0]} ended at start")
        else:
            (_await_http if http else _await_health)(address, process)
        yield Measured(process, address)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # who waits for a line ends by itself
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _await_health(address: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < until and process.poll() is None:
            try:
                if stub.Check(health_pb2.HealthCheckRequest(), timeout=1).status == 1:
                    return
            except grpc.RpcError:
                time.sleep(0.1)
    raise RuntimeError(f"no health at {address}")


def _await_http(address: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://{address}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{address} did not become healthy")
