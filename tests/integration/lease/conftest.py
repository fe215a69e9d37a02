"""A Valkey for all of these tests, empty for each, and a runtime that was never called twice at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from spillway.store.embedded import embedded_valkey
from tests.integration.lease.runtime import Runtime, serving_runtime


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _valkey() -> AsyncIterator[str]:
    async with embedded_valkey() as url:
        yield url


@pytest.fixture
async def valkey(_valkey: str) -> str:
    client = Redis.from_url(_valkey)
    await client.flushall()
    await client.aclose()
    return _valkey


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with serving_runtime(Runtime()) as runtime:
        yield runtime
        assert not runtime.collisions
