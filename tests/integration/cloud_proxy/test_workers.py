"""A cloud proxy of two workers, as its image runs it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.cloud_proxy.app import build
from services.cloud_proxy.audit_settings import AuditSettings
from services.cloud_proxy.settings import CloudProxySettings
from services.cloud_proxy.spool import Spool
from spillway import audit
from spillway.errors import ProviderRateLimited
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.store.redis import DRIVER
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.server import LOOPBACK
from spillway.worker import Worker
from tests.integration.cloud_proxy.rig import Caller, spec
from tests.integration.processes import started
from tests.integration.workers import reaching

LIMIT = 10


def provider(url: str) -> dict[str, Any]:
    return {
        "name": "openai",
        "base_url": url,
        "region": "us",
        "simulated": True,
        "models": [{"name": "gpt-4o-mini", "context_window": 8192}],
        "limits": {"requests_per_minute": LIMIT},
    }


def test_each_worker_spools_in_a_folder_of_its_own_and_knows_those_of_workers_that_are_no_more(tmp_path: Path) -> None:
    settings = AuditSettings(folder=tmp_path, max_waiting=5)
    shares = [settings.of(Worker(number, 2)) for number in range(2)]
    assert [each.folder for each in shares] == [tmp_path, tmp_path / "worker-1"]
    assert [each.max_waiting for each in shares] == [3, 2]
    for name in ("worker-1", "worker-2", "worker-x"):
        (tmp_path / name).mkdir()
    assert settings.left(2) == [tmp_path / "worker-2"]
    assert AuditSettings().left(1) == []


async def test_what_waits_in_the_folder_of_a_worker_that_is_no_more_is_sent_at_the_next_start(tmp_path: Path) -> None:
    old = Spool(tmp_path / "worker-1")
    await old.open()
    await old.add("gone", [(1, "{}"), (2, "{}")])
    await old.close()
    async with embedded_valkey() as valkey:
        settings = CloudProxySettings.model_validate(
            {
                "store": StoreSettings(url=valkey, timeout_s=5.0),
                "providers": [provider("http://127.0.0.1:9/v1")],
                "audit": AuditSettings(folder=tmp_path),
                "server": LOOPBACK,
            }
        )
        async with build(settings, environ={}), Redis.from_url(valkey, driver_info=DRIVER) as redis:
            assert await redis.xlen(audit.STREAM) == 2


async def test_a_limit_holds_over_all_workers_together(tmp_path: Path) -> None:
    simulator = OpenAISimulator()
    async with embedded_valkey() as valkey, serving_openai(simulator) as url:
        section = {
            "workers": 2,
            "store": {"url": valkey, "timeout_s": 5.0},
            "providers": [provider(url)],
            "audit": {"folder": str(tmp_path / "audit")},
        }
        async with (
            started("cloud_proxy", section, tmp_path / "mesh.yaml") as (address, _),
            reaching(address, 2) as remote,
        ):
            caller = Caller(remote)
            ends = await asyncio.gather(*(caller.generate(spec()) for _ in range(3 * LIMIT)), return_exceptions=True)
    assert Counter(type(end).__name__ for end in ends) == {
        "GenerateResponse": LIMIT,
        ProviderRateLimited.__name__: 2 * LIMIT,
    }
    assert len(simulator.seen) == LIMIT
    assert {path.name for path in (tmp_path / "audit").iterdir() if path.is_dir()} == {"worker-1"}
