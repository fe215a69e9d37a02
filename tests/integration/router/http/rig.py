"""OpenAI's own client before a router in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from services.router.http.settings import HttpSettings
from tests.integration.router.mesh import Mesh, running_mesh

LISTEN = HttpSettings(listen="127.0.0.1:0")
MESSAGES: Any = [{"role": "user", "content": "hello there"}]


def client_of(mesh: Mesh, key: str = "none", **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=f"http://{mesh.http}/v1", **{"max_retries": 0, **options})


@asynccontextmanager
async def running_edge(**options: Any) -> AsyncIterator[tuple[Mesh, AsyncOpenAI]]:
    """A mesh with the edge, and a client of it."""
    async with running_mesh(**{"http": LISTEN, **options}) as mesh, client_of(mesh) as client:
        yield mesh, client
