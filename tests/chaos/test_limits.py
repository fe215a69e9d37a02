"""Four proxies before one provider that counts for itself, a trace with its bursts, and a proxy killed among them.

`SPILLWAY_SECONDS=120` makes it the long run, over windows of the real length.
"""

from __future__ import annotations

import asyncio
import csv
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from services.cloud_proxy.limits import INPUT_TOKENS, MARGIN, OUTPUT_TOKENS, REQUESTS, SLICES
from services.cloud_proxy.settings import CloudProxySettings
from spillway import v1
from spillway.errors import SpillwayError
from spillway.leash import leashed
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from tests.integration.cloud_proxy.rig import STAMP, Caller, declared, spec
from tests.integration.processes import free_port

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "traces" / "azure2023_conv.csv"
# The trace is among the measuring data, which is not in the repository.
pytestmark = [pytest.mark.chaos, pytest.mark.conformance, pytest.mark.skipif(not DATA.exists(), reason="no trace")]

SECONDS = float(os.environ.get("SPILLWAY_SECONDS", "14"))
LONG = SECONDS >= 120
WINDOW_S = 60.0 if LONG else 6.0
SPEED = 20.0 if LONG else 5.0
PROXIES, LATENCY_S = 4, 0.2
MARGIN_S = WINDOW_S * MARGIN / SLICES
SLACK = 1.0 if LONG else 1.03
"""A short window has a short margin (0.1 s of 6 s), and a busy machine delays some calls by more."""
SHARE = 0.17
"""Of what the trace asks for on average, what the limit on tokens of prompts lets through."""
TENANTS = [f"tenant{rank}" for rank in range(8)]
WEIGHTS = [1 / (rank + 1) ** 1.2 for rank in range(8)]
MEAN_INPUT, PER_S = 1155, 5.53
"""Of the trace: tokens of a prompt, calls a second."""
INPUT = round(PER_S * SPEED * MEAN_INPUT * WINDOW_S * SHARE)
LIMITS = {REQUESTS: INPUT // 500, INPUT_TOKENS: INPUT, OUTPUT_TOKENS: INPUT // 3, "concurrency": 200}
"""In any window, whatever its length here."""
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Came:
    """What came to the provider: `at` which moment each call, and what it took."""

    at: list[float]
    requests: list[int]
    input: list[int]
    output: list[int]

    def used(self, began: float, ended: float) -> list[float]:
        """How much of the limit on tokens of prompts each window uses, of those that begin every second."""
        starts = [began + second for second in range(int(ended - began - WINDOW_S) + 1)]
        calls = list(zip(self.at, self.input, strict=True))
        return [sum(tokens for at, tokens in calls if start <= at < start + WINDOW_S) / INPUT for start in starts]

    def most(self, amounts: list[int]) -> int:
        """The most that any window has seen of `amounts`."""
        most = total = first = 0
        calls = sorted(zip(self.at, amounts, strict=True))
        for at, amount in calls:
            total += amount
            while calls[first][0] <= at - WINDOW_S:
                total -= calls[first][1]
                first += 1
            most = max(most, total)
        return most


class Child:
    """One process, `module` with `arguments`."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._arguments = ("-m", module, *arguments)
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._arguments),
            cwd=ROOT,
            env=leashed({**os.environ, "PYTHONPATH": str(ROOT)}),
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


def proxy(address: str, valkey: str, url: str) -> Child:
    """A proxy at `address`, before the provider at `url`."""
    settings = CloudProxySettings.model_validate(
        {
            "server": {"listen": address, "announce_s": 0, "drain_s": 0},
            "store": {"url": valkey, "timeout_s": 5.0},
            "providers": [declared(url, limits=LIMITS, max_wait_s=WINDOW_S / 3)],
            "replicas": PROXIES,
            "logs": {"level": "error"},
        }
    )
    return Child("tests.chaos.limited_proxy", settings.model_dump_json(), str(WINDOW_S))


@dataclass(slots=True)
class Load:
    """The trace, replayed by callers of several tenants."""

    rng: random.Random
    asked: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)

    async def one(self, caller: Caller, tenant: str, tokens: int, length: int) -> None:
        stamp = v1.PolicyStamp()
        stamp.CopyFrom(STAMP)
        stamp.tenant = tenant
        self.asked[tenant] += 1
        text = " ".join([str(length), tenant, str(time.monotonic()), *["abc"] * (tokens - 3)])
        try:
            await caller.generate(spec(text), stamp=stamp, seconds=WINDOW_S)
            self.ended["ANSWERED"] += 1
        except SpillwayError as error:
            self.ended[error.reason] += 1

    async def replay(self, callers: Sequence[Caller], seconds: float) -> None:
        with DATA.open() as file:
            rows = [(float(at), int(tokens), int(length)) for at, tokens, length in list(csv.reader(file))[1:]]
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number, (at, tokens, length) in enumerate(rows):
                if at / SPEED > seconds:
                    break
                await asyncio.sleep(began + at / SPEED - loop.time())
                tenant = self.rng.choices(TENANTS, WEIGHTS)[0]
                group.create_task(self.one(callers[number % len(callers)], tenant, tokens, length))


async def murder(one: Child, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0.3, 0.7) * SECONDS)
    await one.kill()
    await one.start()


async def test_no_window_sees_more_than_the_limit_though_a_proxy_is_killed(valkey: str) -> None:
    rng = random.Random(5)
    load, port = Load(rng), free_port()
    url = f"http://127.0.0.1:{port}/v1"
    async with AsyncExitStack() as stack:
        provider = Child("tests.chaos.counting_provider", str(port), str(WINDOW_S), str(LATENCY_S))
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(PROXIES)]
        proxies = [proxy(address, valkey, url) for address in addresses]
        for child in (provider, *proxies):
            stack.push_async_callback(child.kill)
        await asyncio.gather(*(child.start() for child in (provider, *proxies)))
        callers = []
        for address in addresses:
            remote = Remote(address, tracing=Tracing("test"), name=address)
            stack.push_async_callback(remote.close)
            callers.append(Caller(remote))
            await ready(callers[-1])
        began = time.monotonic()
        killing = asyncio.create_task(murder(proxies[0], rng))
        await load.replay(callers, SECONDS)
        await killing
        await none_outstanding(valkey)
        session = await stack.enter_async_context(ClientSession())
        async with session.get(f"{url}/came") as response:
            told = await response.json()
    assert told["running"] == 0
    judge(told["came"], began, load)


def judge(calls: list[tuple[float, float, str, int, int]], began: float, load: Load) -> None:
    """Hold what came to the limits, and to what each tenant asked for."""
    at, sent, tenants, input, output = (list(each) for each in zip(*calls, strict=True))
    ones = [1] * len(calls)
    came, went = (Came(moments, ones, input, output) for moments in (at, sent))
    most = [[one.most(amounts) for amounts in (ones, input, output)] for one in (came, went)]
    late = max(came - sent for came, sent in zip(at, sent, strict=True))
    windows = came.used(began, began + SECONDS)
    used = sum(windows) / len(windows)
    by_tenant = Counter(tenants)
    served = len(calls) / sum(load.asked.values())
    shares = {tenant: round(by_tenant[tenant] / load.asked[tenant], 3) for tenant in TENANTS}
    print(f"most by arrival and by sending {most} of {LIMITS}, latest {late:.3f} s, used {used:.3f}, {windows}")
    print(f"{len(calls)} calls came, {served:.3f} of those asked for, by tenant {shares}, {load.ended}")
    # A call that came later than the margin is not promised; it is the machine's doing, and its sending is looked at.
    limits, judged = tuple(LIMITS.values()), most[0] if late <= MARGIN_S else most[1]
    assert judged[0] <= limits[0]
    assert judged[1] <= limits[1] * SLACK
    assert judged[2] <= limits[2] * 1.01 * SLACK
    assert most[0][1] >= 0.95 * INPUT
    assert used >= 0.95 or not LONG
    even = len(calls) / len(TENANTS)
    for tenant in TENANTS:  # who asks for little gets it; nobody is left with far less than an even share
        assert by_tenant[tenant] >= 0.5 * min(load.asked[tenant] * served, even), tenant


async def ready(caller: Caller) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await caller.models()
                return
            except SpillwayError:
                await asyncio.sleep(0.1)


async def none_outstanding(valkey: str) -> None:
    """Return when no reservation is unsettled and no place is held: what a killed proxy held expires."""
    client = Redis.from_url(valkey)
    async with asyncio.timeout(WINDOW_S):
        while True:
            calls = [key async for key in client.scan_iter("*:call:*", count=1000)]
            held = [value for value in await client.mget(calls) if value not in (None, b"ended")] if calls else []
            now, _ = await client.time()
            leases = [await client.zcount(key, now * 1e6, "+inf") async for key in client.scan_iter("*:leases")]
            if not held and not sum(leases):
                break
            await asyncio.sleep(0.2)
    await client.aclose()
