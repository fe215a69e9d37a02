"""Breakers of several routers on one real store: hints, leased probes, and standing alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.router import breaker_scripts
from services.router.breaker import Closed, Event, Opened, State
from services.router.breaker_hints import Hints
from services.router.breaker_settings import BreakersSettings, RetryBudgetSettings
from services.router.breakers import Breakers
from services.router.observation import Observation
from services.router.outcome import Outcome
from services.router.probe import Probe
from services.router.retry_budget import RetryBudget
from spillway.errors import BreakerOpen
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.store.redis import DRIVER, Store
from spillway.testing.clock import HandClock
from spillway.testing.waiting import eventually

NOWHERE = "unix:///nowhere/valkey.sock"
SHORT = BreakersSettings.model_validate({"transport": {"open_s": 0.05}})
"""Open so shortly that a hint's end on the store's own clock is soon."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def _valkey() -> AsyncIterator[str]:
    async with embedded_valkey() as url:
        yield url


@pytest.fixture
async def valkey(_valkey: str) -> str:
    client = Redis.from_url(_valkey, driver_info=DRIVER)
    await client.flushall()
    await client.aclose()
    return _valkey


class Fleet:
    """Routers on one clock moved by hand."""

    def __init__(self, stack: AsyncExitStack, url: str) -> None:
        self.clock = HandClock()
        self.events: list[Event] = []
        self._stack = stack
        self._url = url

    def router(self, name: str, settings: BreakersSettings | None = None, url: str = "") -> Breakers:
        return Breakers(
            settings or BreakersSettings(),
            store=self.store(url),
            clock=self.clock,
            name=name,
            draw=lambda: 0.0,
            listeners=[self.events.append],
        )

    def store(self, url: str = "") -> Store:
        store = Store(StoreSettings(url=url or self._url, timeout_s=5.0))
        self._stack.push_async_callback(store.close)
        return store

    def tell(self, router: Breakers, outcome: Outcome, probe: Probe | None = None) -> None:
        router.record("local", Observation(outcome, self.clock()), probe=probe)

    def down(self, router: Breakers) -> None:
        for _ in range(3):
            self.tell(router, Outcome.DOWN)


@pytest.fixture
async def fleet(valkey: str) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        yield Fleet(stack, valkey)


async def tried(routers: list[Breakers]) -> list[Probe]:
    """What one request to each of `routers` was let through with, all at once."""
    found = await asyncio.gather(*(router.may_probe("local") for router in routers), return_exceptions=True)
    assert all(isinstance(each, Probe | BreakerOpen) for each in found)
    return [each for each in found if isinstance(each, Probe)]


def state(router: Breakers) -> State:
    standing = router.snapshot().get("local")
    return standing.state if standing is not None else State.CLOSED


async def shared(*routers: Breakers) -> None:
    for router in routers:
        assert await router.share()


async def test_what_one_router_opened_the_others_open_without_failures_of_their_own(fleet: Fleet) -> None:
    one, two, three = (fleet.router(name) for name in ("one", "two", "three"))
    fleet.down(one)
    await shared(one, two, three)
    assert [state(router) for router in (one, two, three)] == [State.OPEN] * 3
    standing = two.snapshot()["local"]
    assert standing.why == "3 failures in a row"
    assert 20 < standing.left_s <= 25
    assert Counter(event.heard for event in fleet.events if isinstance(event, Opened)) == {False: 1, True: 2}
    assert two.routers <= three.routers == 3


async def test_a_router_the_target_has_just_answered_does_not_give_it_up_until_it_fails_there_too(
    fleet: Fleet,
) -> None:
    one, two = fleet.router("one"), fleet.router("two")
    fleet.tell(two, Outcome.ANSWERED)
    fleet.down(one)
    await shared(one, two)
    assert state(two) is State.CLOSED
    fleet.tell(two, Outcome.DOWN)
    await shared(two)
    assert state(two) is State.OPEN


async def test_of_ten_routers_one_probes_at_a_time(fleet: Fleet) -> None:
    # So long that all ten hear of a failed probe before the hint of it ends, on a busy machine too.
    settings = BreakersSettings.model_validate({"transport": {"open_s": 0.5}})
    routers = [fleet.router(str(at), settings) for at in range(10)]
    fleet.down(routers[0])
    await shared(*routers)
    fleet.clock.advance(25)
    reached = 0
    for _ in range(3):  # each failed probe opens all again
        probes: list[Probe] = []
        async with asyncio.timeout(10):
            while not probes:  # until the hint has ended on the store's clock too
                fleet.clock.advance(1)
                probes = await tried(routers)
        reached += len(probes)
        owner = next(router for router in routers if probes[0].lease.startswith(f"{router._name}:"))
        fleet.tell(owner, Outcome.DOWN, probes[0])
        await owner.share()
        await asyncio.gather(*(router.share() for router in routers))
    assert reached == 3


async def test_more_probes_go_where_the_settings_say_so(fleet: Fleet) -> None:
    settings = BreakersSettings.model_validate({"transport": {"open_s": 0.05, "probes": 3}})
    routers = [fleet.router(str(at), settings) for at in range(10)]
    for router in routers:
        fleet.down(router)
    fleet.clock.advance(1)
    assert len(await tried(routers)) == 3
    assert len(await tried(routers)) == 0


async def test_an_answered_probe_closes_it_for_all_who_opened_on_anothers_word(fleet: Fleet) -> None:
    one, two, three = (fleet.router(name, SHORT) for name in ("one", "two", "three"))
    fleet.down(one)
    await shared(one, two, three)
    probe: Probe | None = None
    async with asyncio.timeout(10):
        while probe is None:
            fleet.clock.advance(1)
            probe = next(iter(await tried([two])), None)
    fleet.tell(two, Outcome.ANSWERED, probe)
    await shared(two, three, one)
    assert [state(router) for router in (one, two, three)] == [State.HALF_OPEN, State.CLOSED, State.CLOSED]
    assert three.snapshot()["local"].share < 1
    assert Closed("local", "", "it answers another router", heard=True) in fleet.events
    assert len(await tried([one])) == 1  # who saw it fail tries it for himself, and the lease is free


async def test_a_failed_probe_bars_the_next_before_the_others_have_heard(fleet: Fleet) -> None:
    one, two = fleet.router("one"), fleet.router("two")
    for router in (one, two):
        fleet.down(router)
    fleet.clock.advance(30)
    (probe,) = await tried([one])
    fleet.tell(one, Outcome.DOWN, probe)
    await shared(one)
    assert state(two) is State.HALF_OPEN
    assert await tried([two]) == []


async def test_a_reset_reaches_all_routers(fleet: Fleet) -> None:
    one, two, three = (fleet.router(name) for name in ("one", "two", "three"))
    for router in (one, two):
        fleet.down(router)
    await shared(one, two, three)
    three.reset("local")
    await shared(three, one, two)
    assert [router.snapshot() for router in (one, two, three)] == [{}, {}, {}]


async def test_a_lease_ends_by_itself_and_the_same_one_is_leased_once(fleet: Fleet) -> None:
    hints = Hints(fleet.store(), "one")
    for _ in range(2):
        assert await hints.lease("local", "one:1", probes=2, seconds=0.2) == 0
    assert await hints.lease("local", "one:2", probes=2, seconds=60) == 0
    wait_s = await hints.lease("local", "two:1", probes=2, seconds=60)
    assert 0 < wait_s <= 0.2
    await asyncio.sleep(wait_s + 0.002)
    assert await hints.lease("local", "two:1", probes=2, seconds=60) == 0
    await hints.release("local", "one:2")
    await hints.release("local", "one:2")
    assert await hints.lease("local", "two:2", probes=2, seconds=60) == 0


async def test_all_keys_are_in_one_hash_slot_and_none_stays_for_ever(fleet: Fleet, valkey: str) -> None:
    one = fleet.router("one", SHORT)
    fleet.down(one)
    fleet.clock.advance(1)
    await tried([one])
    fleet.tell(one, Outcome.ANSWERED)
    fleet.down(one)
    await shared(one)
    client = Redis.from_url(valkey, decode_responses=True, driver_info=DRIVER)
    keys = await client.keys("*")
    lives = [await client.pttl(key) for key in keys]
    await client.aclose()
    expected = [breaker_scripts.HINTS, breaker_scripts.ROUTERS, breaker_scripts.probes("local")]
    assert sorted(keys) == sorted(expected)
    assert all("{breakers}" in key for key in keys)
    assert all(0 < life <= 91_000 for life in lives)


async def test_without_the_store_each_router_stands_alone(fleet: Fleet) -> None:
    one, two = fleet.router("one", url=NOWHERE), fleet.router("two", url=NOWHERE)
    for router in (one, two):
        fleet.down(router)
        assert not await router.share()
    fleet.clock.advance(30)
    assert len(await tried([one, one, two])) == 2  # each has its own
    assert (one.routers, state(fleet.router("three"))) == (1, State.CLOSED)


async def test_a_store_that_goes_away_under_a_probe_does_not_stop_it(fleet: Fleet) -> None:
    one = fleet.router("one", url=NOWHERE)
    fleet.down(one)
    fleet.clock.advance(30)
    (probe,) = await tried([one])  # found out while asking
    assert probe.lease == ""


async def test_what_was_not_told_is_told_when_the_store_is_back() -> None:
    async with embedded_valkey() as url, AsyncExitStack() as stack:
        fleet = Fleet(stack, url)
        one, two = fleet.router("one"), fleet.router("two")
        client = Redis.from_url(url, driver_info=DRIVER)
        await client.config_set("maxclients", "1")  # nobody else is let in
        fleet.down(one)
        assert not await one.share()
        await client.config_set("maxclients", "100")
        await client.aclose()
        await shared(one, two)
        assert state(two) is State.OPEN


async def test_a_request_given_up_while_it_leases_leaves_no_probe_behind(fleet: Fleet) -> None:
    one = fleet.router("one", SHORT)
    fleet.down(one)
    fleet.clock.advance(1)
    task = asyncio.create_task(one.may_probe("local"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await shared(one)
    assert len(await tried([one])) == 1


async def test_a_task_of_its_own_tells_and_hears(fleet: Fleet) -> None:
    one, two = fleet.router("one"), fleet.router("two", BreakersSettings(poll_s=0.05))
    await one.start()
    await two.start()
    try:
        fleet.down(one)
        await eventually(lambda: state(two) is State.OPEN)
    finally:
        await one.close()
        await two.close()


async def test_routers_seen_share_the_floor_of_the_retry_budget(fleet: Fleet) -> None:
    routers = [fleet.router(str(at)) for at in range(4)]
    await shared(*routers, routers[0])
    budget = RetryBudget(RetryBudgetSettings(floor=8), lambda: routers[0].routers)
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
