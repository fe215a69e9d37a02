"""A cloud proxy of two workers, as its image runs it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from spillway.errors import ProviderRateLimited
from spillway.store.embedded import embedded_valkey
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.rig import Caller, spec
from tests.integration.processes import started
from tests.integration.workers import reaching

LIMIT = 10


async def test_a_limit_holds_over_all_workers_together(tmp_path: Path) -> None:
    simulator = OpenAISimulator()
    async with embedded_valkey() as valkey, serving_openai(simulator) as url:
        provider = {
            "name": "openai",
            "base_url": url,
            "region": "us",
            "simulated": True,
            "models": [{"name": "gpt-4o-mini", "context_window": 8192}],
            "limits": {"requests_per_minute": LIMIT},
        }
        section = {
            "workers": 2,
            "store": {"url": valkey, "timeout_s": 5.0},
            "providers": [provider],
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
