"""Clients that are not ours: another language from the .proto files alone, and `buf curl` with reflection."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.router.mesh import Mesh, running_mesh

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
MODULES = ROOT / "node_modules"

pytestmark = pytest.mark.skipif(
    not (MODULES / "@grpc" / "grpc-js").is_dir() or shutil.which("node") is None,
    reason="needs node and `npm ci` (make lint runs it)",
)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with running_mesh() as found:
        yield found


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_javascript_client_streams_an_answer_from_the_proto_files_alone(mesh: Mesh) -> None:
    said = json.loads(await run("node", str(HERE / "stream.mjs"), str(ROOT / "protos"), mesh.address, "hello there"))
    assert said == {"text": "one two three four five", "target": "local"}


async def test_buf_curl_streams_an_answer_by_reflection(mesh: Mesh) -> None:
    url = f"http://{mesh.address}/spillway.v1.InferenceService/StreamGenerate"
    request = json.dumps({"spec": {"text": {"text": "hello there"}}})
    said = await run(
        str(MODULES / ".bin" / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", request, url
    )
    assert '"text": "one"' in said
    assert said.rstrip().endswith("}")
    assert '"usage"' in said
