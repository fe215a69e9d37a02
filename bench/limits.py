"""What deciding over limits costs, against a script on the same store that does nothing: in turns, one at a time.

A decision is one round trip. The window holds tens of thousands of calls, as it does at a large provider.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from bench.row import Row
from services.cloud_proxy import limit_arguments, limit_scripts
from services.cloud_proxy.limiter import Limiter
from services.cloud_proxy.limits import Amounts, Limits, Scope
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.store.redis import Script, Store

CALLS, WARM, FULL = 3000, 300, 30_000
NOTHING = Script("return 1")
AMOUNTS = Amounts(1, 1000, 200)
MANY = 10**9
ALL_OF_ONE = (Scope("", Limits(MANY, MANY, MANY, MANY), learns=True),)
OF_THREE = (
    Scope("", Limits(MANY, MANY), learns=True),
    Scope("model:gpt-4o-mini", Limits(requests=MANY)),
    Scope("tenant:acme", Limits(tokens=MANY)),
)
Act = Callable[[int], Awaitable[object]]


@dataclass(slots=True)
class Contender:
    """What is done, and what each time took: CPU of this process and time on the clock, in seconds."""

    name: str
    act: Act
    cpu_s: list[float] = field(default_factory=list)
    clock_s: list[float] = field(default_factory=list)

    async def once(self, number: int) -> None:
        cpu, clock = time.process_time(), time.perf_counter()
        await self.act(number)
        self.cpu_s.append(time.process_time() - cpu)
        self.clock_s.append(time.perf_counter() - clock)


def reserving(store: Store, name: str, scopes: tuple[Scope, ...]) -> Act:
    """The script alone, as the limiter calls it."""
    rest = limit_arguments.scope_keys(name, scopes)
    limits = limit_arguments.limits_of(scopes)

    async def act(number: int) -> None:
        keys = [limit_arguments.call_key(name, str(number)), *rest]
        frame = limit_arguments.frame(250_000, 30_000_000, AMOUNTS)
        allowed, *_ = await store.run(limit_scripts.RESERVE, keys, [frame, limits, str(number), 1])
        assert allowed

    return act


async def measured() -> list[tuple[Contender, float]]:
    """Every contender, with the microseconds of the server's own time per script."""
    async with embedded_valkey() as url:
        store = Store(StoreSettings(url=url, timeout_s=5.0))
        limiter = Limiter(store, name="bench", replicas=1, clock=time.monotonic)

        async def nothing(number: int) -> None:
            await store.run(NOTHING, ["spillway:bench"], [])

        async def whole(number: int) -> None:
            _, reservation = await limiter.reserve(f"whole{number}", "whole", OF_THREE, AMOUNTS)
            assert reservation is not None

        contenders = [
            Contender("an EVALSHA that does nothing", nothing),
            Contender("4 limits of one scope", reserving(store, "one", ALL_OF_ONE)),
            Contender("4 limits over three scopes", reserving(store, "three", OF_THREE)),
            Contender("the same by the Limiter, whole", whole),
        ]
        fill = contenders[1].act
        for number in range(FULL):
            await fill(-number - 1)
        for number in range(WARM):
            for one in contenders:
                await one.act(number)
        for number in range(WARM, WARM + CALLS):
            for one in contenders:
                await one.once(number)
        served = []
        for one in contenders:
            await store.redis.config_resetstat()
            for number in range(1000):
                await one.act(10**6 + number)
            told = await store.redis.info("commandstats")
            served.append(float(told["cmdstat_evalsha"]["usec_per_call"]))
        await store.close()
        return list(zip(contenders, served, strict=True))


def run() -> Iterator[Row]:
    """The script that does nothing first, then decisions."""
    found = asyncio.run(measured())
    base = found[0][0]
    for one, server_us in found:
        cpu, clock = (
            statistics.median(each) / statistics.median(of)
            for each, of in ((one.cpu_s, base.cpu_s), (one.clock_s, base.clock_s))
        )
        yield Row(
            one.name,
            "store",
            statistics.median(one.cpu_s) * 1e6,
            "call",
            f"{cpu:.2f} of CPU, {clock:.2f} of latency ({statistics.median(one.clock_s) * 1e6:.0f} us), "
            f"server {server_us:.1f} us",
        )
