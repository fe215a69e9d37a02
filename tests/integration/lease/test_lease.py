"""The lease on a real Valkey, with engines behind real gRPC before a runtime that tells when it is called twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.local_engine.app import build
from services.local_engine.settings import LocalEngineSettings
from spillway import lease, v1
from spillway.deadline import Deadline
from spillway.errors import TargetBusy, TargetTimeout
from spillway.rpc.call import Call
from spillway.settings import SettingsError
from spillway.store.embedded import embedded_valkey
from spillway.testing.waiting import eventually
from tests.integration.lease.engines import NAME, end, engines, hanging, in_line, lease_settings, standing
from tests.integration.lease.runtime import HANGS, Runtime, serving_runtime

ANSWER = "wordwordword"
BACKGROUND = v1.PRIORITY_BACKGROUND


async def test_two_engines_are_never_in_the_runtime_at_once(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, 2) as clients:
        answers = await asyncio.gather(*(client.ask() for client in clients * 20))
    assert answers == [ANSWER] * 40
    assert (runtime.most, runtime.collisions) == (1, 0)


async def test_a_lease_with_several_slots_lets_as_many_in(valkey: str) -> None:
    async with (
        serving_runtime(Runtime(slots=2, interval_s=0.01)) as runtime,
        engines(runtime, valkey, 3, slots=2) as three,
    ):
        answers = await asyncio.gather(*(client.ask() for client in three * 10))
    assert answers == [ANSWER] * 30
    assert (runtime.most, runtime.collisions) == (2, 0)


async def test_who_may_not_wait_so_long_is_told_when_to_come_back(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, 2, wait_s=0.2) as (one, other), hanging(one, runtime):
        with pytest.raises(TargetBusy, match="was not free within") as caught:
            await other.ask()
        assert caught.value.resource == NAME
        assert caught.value.retry_after_s is not None
        with pytest.raises(TargetBusy):
            await one.ask()


async def test_a_full_line_sends_away_at_once(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, queue=1) as (engine,), hanging(engine, runtime) as holder:
        waiting = asyncio.create_task(engine.ask())
        await in_line(engine, 1)
        with pytest.raises(TargetBusy, match="1 calls wait already"):
            await engine.ask()
        runtime.go.set()
        assert [await holder, await waiting] == [ANSWER] * 2


async def test_interactive_calls_go_before_background_ones_each_as_they_came(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, 2) as (one, other), hanging(one, runtime):
        asked = []
        for number, (client, prompt) in enumerate(
            [(one, "b1"), (other, "b2"), (one, "i1"), (other, "i2"), (one, "b3")]
        ):
            kind = BACKGROUND if prompt.startswith("b") else v1.PRIORITY_INTERACTIVE
            asked.append(asyncio.create_task(client.ask(prompt, priority=kind)))
            await in_line(client, [1, 1, 2, 2, 3][number])
        runtime.go.set()
        await asyncio.gather(*asked)
    assert runtime.entered[1:] == ["i1", "i2", "b1", "b2", "b3"]


async def test_a_caller_that_leaves_gives_the_lease_back(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, 2) as (one, other):
        async with hanging(one, runtime):
            waiting = asyncio.create_task(other.ask())
            leaving = asyncio.create_task(other.ask("never"))
            await in_line(other, 2)
            leaving.cancel()
            await asyncio.wait({leaving})
        assert await waiting == ANSWER
        assert runtime.entered == [HANGS, "hello"]
    assert not (await standing(valkey)).holders


async def test_it_is_told_who_holds_and_fencing_tokens_grow(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey) as (engine,):
        tokens = []
        for _ in range(3):
            async with hanging(engine, runtime):
                (holder,) = (await standing(valkey)).holders
                tokens.append(holder.fencing)
                assert (holder.request_id, holder.ended) == ("holder", False)
                assert holder.owner.startswith("local@")
            await eventually(lambda: not runtime.inside)
    assert tokens == sorted(set(tokens))


async def test_an_operator_who_wants_it_back_ends_the_call_before_the_next_begins(
    runtime: Runtime, valkey: str
) -> None:
    async with engines(runtime, valkey, 2) as (one, other), hanging(one, runtime) as holder:
        waiting = asyncio.create_task(other.ask())
        await in_line(other, 1)
        assert (await end(valkey)).holders[0].ended
        with pytest.raises(TargetBusy, match="an operator released it"):
            await holder
        assert await waiting == ANSWER


async def test_a_lease_that_the_store_gave_to_another_ends_the_call(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey) as (engine,), hanging(engine, runtime) as holder:
        client = Redis.from_url(valkey)
        await client.delete(*lease.keys(NAME)[2:4])
        await client.aclose()
        with pytest.raises(TargetBusy, match="another's"):
            await holder
        assert not runtime.inside


async def test_the_longest_hold_ends_a_call_that_takes_longer(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, max_hold_s=1.0) as (engine,), hanging(engine, runtime) as holder:
        with pytest.raises(TargetTimeout, match="longer than the 1 s"):
            await holder
        assert await engine.ask() == ANSWER


async def test_a_lost_lease_ends_the_call_in_the_runtime_even_if_nobody_reads_the_answer(
    runtime: Runtime, valkey: str
) -> None:
    async with engines(runtime, valkey) as (client,):
        backend = client.app.engine._backend
        assert backend is not None
        spec = v1.GenerationSpec(text=v1.TextPrompt(text=HANGS))
        events = backend.generate(spec, Call("r", Deadline.after(30)), window=lambda: 0.0, whole=False)
        async with aclosing(events):
            assert (await anext(events)).HasField("started")
            assert (await anext(events)).delta.text == "word"
            await end(valkey)
            await eventually(lambda: not runtime.inside)
            with pytest.raises(TargetBusy, match="an operator released it"):
                async for _ in events:
                    pass


def _point(link: Path, to: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(to)


@asynccontextmanager
async def store_at(link: Path) -> AsyncIterator[str]:
    """A Valkey that is found at `link`."""
    async with embedded_valkey() as url:
        await asyncio.to_thread(_point, link, url.removeprefix("unix://"))
        yield f"unix://{link}"


async def test_without_the_store_calls_are_refused_and_the_running_one_ends_in_time(
    runtime: Runtime, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        async with store_at(tmp_path / "s") as url:
            (engine,) = await stack.enter_async_context(engines(runtime, url))
            holder = await stack.enter_async_context(hanging(engine, runtime))
        with pytest.raises(TargetBusy, match=r"the store that keeps it is away.*") as caught:
            await engine.ask()
        assert caught.value.retry_after_s is not None
        with pytest.raises(TargetBusy, match="could not be renewed in time"):
            await holder
        assert not runtime.inside


async def test_told_to_go_on_alone_an_engine_keeps_its_own_calls_apart_without_the_store(
    runtime: Runtime, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        async with store_at(tmp_path / "s") as url:
            (engine,) = await stack.enter_async_context(engines(runtime, url, without_store="local"))
            holder = await stack.enter_async_context(hanging(engine, runtime))
        others = [asyncio.create_task(engine.ask()) for _ in range(5)]
        await in_line(engine, 5)
        await eventually(lambda: "alone" in repr(engine.app.engine._backend))  # the store would have let it go by now
        runtime.go.set()
        assert await asyncio.gather(holder, *others) == [ANSWER] * 6


async def test_a_store_that_restarts_in_the_middle_learns_of_the_call_and_lets_no_other_in(
    runtime: Runtime, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        async with store_at(tmp_path / "s") as url:
            one, other = await stack.enter_async_context(engines(runtime, url, 2))
            holder = await stack.enter_async_context(hanging(one, runtime))
            (before,) = (await standing(url)).holders
        async with store_at(tmp_path / "s"):
            waiting = asyncio.create_task(other.ask())
            (after,) = (await told_again(url)).holders
            assert (after.fencing, after.request_id) == (before.fencing, "holder")
            runtime.go.set()
            assert await holder == ANSWER
            assert await waiting == ANSWER


async def told_again(url: str) -> lease.Standing:
    async with asyncio.timeout(10):
        while True:
            found = await standing(url)
            if found.holders:
                return found


async def test_a_lease_without_a_store_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"store\.url"):
        async with build(LocalEngineSettings(lease=lease_settings())):
            pass
