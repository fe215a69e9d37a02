from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from spillway.store.embedded import embedded_valkey

PARENT = """
import asyncio
from spillway.store.embedded import embedded_valkey

async def main():
    async with embedded_valkey() as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where sockets and temporary folders go during the test."""
    short = Path(tempfile.mkdtemp(prefix="sw-"))  # a socket's path has at most 107 characters
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield short
    tempfile.tempdir = None
    assert list(short.iterdir()) == []
    short.rmdir()


async def test_it_answers_on_a_socket_of_its_owner_and_leaves_nothing(folder: Path) -> None:
    async with embedded_valkey() as url:
        client = Redis.from_url(url)
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        assert (await client.info("server"))["tcp_port"] == 0
        await client.aclose()
        (socket,) = folder.iterdir()  # noqa: ASYNC240
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert url == f"unix://{socket}"


async def test_two_do_not_share_anything(folder: Path) -> None:
    async with embedded_valkey() as one, embedded_valkey() as two:
        assert one != two


def test_it_ends_with_its_parent_and_leaves_no_folder_when_that_is_killed(folder: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    socket = Path(parent.stdout.readline().strip().removeprefix("unix://"))
    assert socket.is_socket()

    parent.kill()
    parent.wait()
    parent.stdout.close()

    ends = time.monotonic() + 10
    while list(folder.iterdir()) and time.monotonic() < ends:
        time.sleep(0.01)
    assert list(folder.iterdir()) == []
