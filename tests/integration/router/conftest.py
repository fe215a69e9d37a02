"""The mesh that most of these tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.router.mesh import Mesh, running_mesh


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with running_mesh() as found:
        yield found
