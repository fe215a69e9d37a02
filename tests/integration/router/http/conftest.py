"""The mesh and client that most of these tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.integration.router.http.rig import running_edge
from tests.integration.router.mesh import Mesh


@pytest.fixture
async def edge() -> AsyncIterator[tuple[Mesh, AsyncOpenAI]]:
    async with running_edge() as found:
        yield found


@pytest.fixture
def mesh(edge: tuple[Mesh, AsyncOpenAI]) -> Mesh:
    return edge[0]


@pytest.fixture
def client(edge: tuple[Mesh, AsyncOpenAI]) -> AsyncOpenAI:
    return edge[1]
