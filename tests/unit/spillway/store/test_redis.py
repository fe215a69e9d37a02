from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from spillway.settings import SettingsError, StoreSettings
from spillway.store.redis import Script, Store, StoreUnavailable

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
SOON_S = 1.0
"""Waited out where a store is silent; where it is not, a busy machine connects and answers within it."""


@contextlib.asynccontextmanager
async def connected(url: str, **settings: Any) -> AsyncIterator[Store]:
    store = Store(StoreSettings(url=url, **settings))
    try:
        yield store
    finally:
        await store.close()


async def test_a_script_runs_by_its_digest_and_is_sent_whole_once(valkey: str) -> None:
    async with connected(valkey) as store:
        assert [await store.run(ADD, ["counter"], [2]) for _ in range(3)] == [2, 4, 6]

        calls = {name: told["calls"] for name, told in (await store.redis.info("commandstats")).items()}
        assert (calls["cmdstat_evalsha"], calls["cmdstat_eval"], calls["cmdstat_incrby"]) == (3, 1, 3)


async def test_a_store_that_forgot_the_script_is_told_it_again(valkey: str) -> None:
    async with connected(valkey) as store:
        await store.run(ADD, ["counter"], [1])
        await store.redis.script_flush()

        assert await store.run(ADD, ["counter"], [1]) == 2


async def test_scripts_of_many_callers_run_one_after_the_other(valkey: str) -> None:
    async with connected(valkey, max_connections=4, timeout_s=5) as store:
        values = await asyncio.gather(*(store.run(ADD, ["counter"], [1]) for _ in range(100)))

    assert sorted(values) == list(range(1, 101))


async def test_a_value_is_kept_for_its_time(valkey: str) -> None:
    async with connected(valkey) as store:
        assert await store.get("answer") is None
        await store.set("answer", b"\xff\x00", 60)
        assert await store.get("answer") == b"\xff\x00"
        assert 59_000 < await store.redis.pttl("answer") <= 60_000


async def test_a_dead_store_is_unavailable(free_port: int) -> None:
    async with connected(f"redis://127.0.0.1:{free_port}/0") as store:
        with pytest.raises(StoreUnavailable):
            await store.run(ADD, ["counter"], [1])
        with pytest.raises(StoreUnavailable):
            await store.get("answer")
        with pytest.raises(StoreUnavailable):
            await store.set("answer", b"", 1)
        assert not await store.ping()


async def test_a_slow_store_is_unavailable_after_one_command(slow_redis: Any) -> None:
    slow_redis.silent = frozenset({"EVALSHA", "PING"})
    async with connected(slow_redis.url, timeout_s=SOON_S) as store:
        with pytest.raises(StoreUnavailable):
            await store.run(ADD, ["counter"], [1])
        assert not await store.ping()

    assert slow_redis.commands.count("EVALSHA") == 1
    assert slow_redis.commands.count("PING") == 1


async def test_a_slow_connection_is_given_up_within_the_same_time(slow_redis: Any) -> None:
    slow_redis.silent = frozenset({"HELLO", "CLIENT"})
    async with connected(slow_redis.url, timeout_s=SOON_S, max_connections=1) as store:
        async with asyncio.timeout(SOON_S * 8):  # not pool, connection and command one after the other
            results = await asyncio.gather(
                *(store.run(ADD, ["counter"], [1]) for _ in range(4)), return_exceptions=True
            )

    assert {type(result) for result in results} == {StoreUnavailable}
    assert "EVALSHA" not in slow_redis.commands


async def test_a_late_reply_is_never_taken_for_the_next_ones(valkey: str) -> None:
    slow = Script("local n = 0; for i = 1, 30000000 do n = n + i end; return 'late'")
    async with connected(valkey, timeout_s=0.05, max_connections=1) as store:
        with pytest.raises(StoreUnavailable):
            await store.run(slow, [], [])
        async with asyncio.timeout(30):
            while not await store.ping():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await store.run(ADD, ["counter"], [7]) == 7


async def test_a_store_that_comes_back_is_used_again(slow_redis: Any) -> None:
    slow_redis.silent = frozenset({"EVALSHA"})
    async with connected(slow_redis.url, timeout_s=SOON_S) as store:
        with pytest.raises(StoreUnavailable):
            await store.run(ADD, ["counter"], [1])
        slow_redis.silent = frozenset()
        assert await store.run(ADD, ["counter"], [1]) == b"OK"


def test_a_store_without_an_address_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"store\.url"):
        Store(StoreSettings())


@pytest.mark.parametrize("url", ["redis://:hidden@host:6379/0", "redis://host:6379/0?password=hidden"])
def test_repr_shows_the_place_and_no_password(url: str) -> None:
    assert repr(Store(StoreSettings(url=url))) == "<Store host:6379/0>" or "hidden" not in repr(
        Store(StoreSettings(url=url))
    )


def test_repr_of_a_script_shows_its_digest() -> None:
    assert repr(ADD) == f"<Script {ADD.digest[:8]}>"


async def test_a_listener_is_told_when_it_listens_and_then_all_that_is_published(valkey: str) -> None:
    async with connected(valkey) as store, contextlib.aclosing(store.listen("news")) as news:
        assert await anext(news) == ""
        for told in ("freed", "ended"):
            await store.redis.publish("news", told)
        await store.redis.publish("other", "no")
        assert [await anext(news) for _ in range(2)] == ["freed", "ended"]


async def test_a_listener_whose_connection_breaks_is_told_so(valkey: str, free_port: int) -> None:
    async with connected(f"redis://127.0.0.1:{free_port}/0") as store:
        with pytest.raises(StoreUnavailable):
            await anext(store.listen("news"))
    async with connected(valkey) as store, contextlib.aclosing(store.listen("news")) as news:
        await anext(news)
        await store.redis.client_kill_filter(_type="pubsub")
        with pytest.raises(StoreUnavailable):
            await anext(news)


async def test_whoever_is_cancelled_while_the_store_is_asked_ends_at_whatever_moment(valkey: str) -> None:
    async with connected(valkey) as store:

        async def ask_for_ever() -> None:
            while True:
                await store.get("answer")

        await store.get("answer")
        for turns in range(30):
            asking = asyncio.create_task(ask_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            _, goes_on = await asyncio.wait({asking}, timeout=SOON_S)
            asking.cancel()
            assert not goes_on, f"after {turns} turns of the loop"
