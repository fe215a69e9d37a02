"""One service as a process of its own, as its image runs it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_S = 300.0
END_S = 30.0


@asynccontextmanager
async def started(
    service: str, section: Mapping[str, Any], config: Path, *, ready: bool = True
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run `service` with the settings `section`, written to `config`; yield its address and process."""
    address = f"127.0.0.1:{free_port()}"
    _write(config, {service: {"server": {"listen": address, "announce_s": 0}, **section}})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{service}", "--config", str(config)), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        if ready:
            async with asyncio.timeout(START_S):
                await _serving(address, process)
        yield address, process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), END_S)


def _write(config: Path, sections: dict[str, Any]) -> None:
    config.write_text(yaml.safe_dump(sections))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def _serving(address: str, process: asyncio.subprocess.Process) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            assert process.returncode is None
