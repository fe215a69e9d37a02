"""Sessions of the SDK with a router: what a generation means does not depend on its way."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from spillway.client import Answer, connect
from spillway.errors import (
    AllTargetsFailed,
    DeadlineExceeded,
    RequestIdInUse,
    RequestIdReused,
    StreamInterrupted,
    TargetBusy,
)
from spillway.settings import ServerSettings
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Garbage, Refuse, Script, Silence, Stall
from spillway.testing.server import LOOPBACK, serving
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, running_mesh
from tests.unit.client.test_transport import counted
from tests.unit.client.ways import Ask, asked, both_ways, read

README = (Path(__file__).parents[3] / "README.md").read_text()
OBJECT = {"type": "object"}


def told(answer: Answer) -> Any:
    """All of `answer` but how long it took, and its id."""
    message = type(answer.message)()
    message.CopyFrom(answer.message)
    message.started.request_id = ""
    message.usage.ClearField("timings")
    for attempt in message.usage.attempts:
        attempt.ClearField("first_token_ms")
        attempt.ClearField("duration_ms")
    return message


@both_ways
@pytest.mark.parametrize(
    "options",
    [{}, {"n": 2, "max_tokens": 2}, {"json_schema": OBJECT}, {"category": "complex", "delivery": "committed"}],
    ids=["plain", "several", "json", "complex"],
)
async def test_an_answer_is_the_same_in_a_session_and_outside(mesh: Mesh, ask: Ask, options: Any) -> None:
    mesh.local.answer = mesh.cloud.answer = lambda spec: '{"name": "Ann"}'
    async with connect(mesh.address) as client, client.session() as session:
        outside, inside = await ask(client, **options), await ask(session, **options)
    assert told(inside) == told(outside)
    assert len(mesh.kept) == 2


@both_ways
async def test_a_refused_answer_is_asked_for_again_elsewhere_in_a_session_too(mesh: Mesh, ask: Ask) -> None:
    mesh.local.faults = Script(always=Garbage("no JSON"))
    mesh.cloud.answer = lambda spec: '{"name": "Ann"}'
    async with connect(mesh.address) as client, client.session() as session:
        answer = await ask(session, json_schema=OBJECT)
    assert (answer.json(), answer.target) == ({"name": "Ann"}, "cloud")
    assert mesh.outcomes()[-1] == "cloud:answered"


@both_ways
async def test_an_error_lists_the_attempts_in_a_session_as_outside(mesh: Mesh, ask: Ask) -> None:
    mesh.local.faults = mesh.cloud.faults = Script(always=Refuse(TargetBusy("busy", retry_after_s=9)))
    async with connect(mesh.address) as client, client.session() as session:
        with pytest.raises(AllTargetsFailed) as outside:
            await ask(client)
        with pytest.raises(AllTargetsFailed) as inside:
            await ask(session)
    assert inside.value.metadata.keys() == outside.value.metadata.keys()


async def test_a_request_id_gives_the_same_whole_answer_in_a_session_and_outside(mesh: Mesh) -> None:
    async with connect(mesh.address) as client, client.session() as session:
        answers = await asyncio.gather(*(asked(session, request_id="r-1") for _ in range(3)))
        answers += [await asked(client, request_id="r-1")]
        assert {answer.message.SerializeToString() for answer in answers} == {answers[0].message.SerializeToString()}
        assert len(mesh.local.seen) == 1
        with pytest.raises(RequestIdReused):
            await asked(session, "Something else", request_id="r-1")
        with pytest.raises(RequestIdInUse):
            await read(session, request_id="r-1")


@both_ways
async def test_the_deadline_of_one_generation_ends_it_at_the_engine_and_no_other(mesh: Mesh, ask: Ask) -> None:
    mesh.local.faults = Script(Stall(1), Silence())
    async with connect(mesh.address) as client, client.session() as session, session.stream("Hi") as stays:
        await anext(aiter(stays))
        with pytest.raises(DeadlineExceeded):
            await ask(session, deadline_s=0.3, allowed_targets=["local"])
        await eventually(lambda: mesh.local.running == 1)


@both_ways
async def test_who_leaves_ends_the_engines_work_and_no_others(mesh: Mesh, ask: Ask) -> None:
    mesh.local.faults = Script(Stall(1), Stall(1))
    async with connect(mesh.address) as client:
        async with client.session() as session, session.stream("Hi") as stays:
            await anext(aiter(stays))
            leaves = asyncio.create_task(ask(session))
            await eventually(lambda: mesh.local.running == 2)
            leaves.cancel()
            await eventually(lambda: mesh.local.running == 1)
        await eventually(lambda: mesh.local.running == 0)
    await asyncio.gather(leaves, return_exceptions=True)


async def test_a_slow_reader_holds_up_nobody_and_is_cut_after_the_stall_time_alone() -> None:
    server = LOOPBACK.model_copy(update={"write_stall_s": 1.0})
    engine = FakeEngine(model="small", answer=lambda spec: "word " * 100_000, interval_s=0.0005)
    async with (
        running_mesh(local=engine, server=server) as mesh,
        connect(mesh.address) as client,
        client.session() as session,
        session.stream("Hi") as slow,
    ):
        async with session.stream("Hi") as quick:
            texts = aiter(quick)
            while len(mesh.kept) == 0:
                await anext(texts)
        with pytest.raises(StreamInterrupted, match="took nothing"):
            async for _ in slow:
                pass


@both_ways
async def test_a_router_that_restarts_under_an_open_session_does_not_fail_the_next_call(
    unused_tcp_port: int, ask: Ask
) -> None:
    server = ServerSettings(listen=f"127.0.0.1:{unused_tcp_port}", announce_s=0, drain_s=600)
    async with connect(f"127.0.0.1:{unused_tcp_port}") as client, client.session() as session:
        for _ in range(3):
            async with running_mesh(server=server) as mesh:
                answers = await asyncio.gather(ask(client), ask(client), ask(session))
                assert {answer.text for answer in answers} == {"one two three four five"}
                async with asyncio.timeout(60):  # an idle session does not keep it for the time that calls may take
                    await mesh.drain()


async def test_a_router_asks_a_target_that_breaks_its_sessions_in_calls_of_their_own() -> None:
    servicer, service = counted(FakeEngine(model="openai/big"), LOOPBACK)
    servicer.breaks = StatusCode.INTERNAL
    async with (
        serving(service) as cloud,
        running_mesh(cloud_address=cloud.address) as mesh,
        connect(mesh.address) as client,
    ):
        assert (await read(client, allowed_targets=["cloud"])).text == "one two three four five"
    assert mesh.outcomes() == ["cloud:failed", "cloud:answered"]
    assert servicer.rpcs == {"Session": 1, "StreamGenerate": 1}


@both_ways
async def test_what_a_targets_session_does_not_take_up_goes_in_a_call_of_its_own(ask: Ask) -> None:
    engine = FakeEngine(model="openai/big", faults=Script(Stall(1)))
    servicer, service = counted(engine, LOOPBACK)
    async with (
        serving(service) as cloud,
        running_mesh(cloud_address=cloud.address) as mesh,
        connect(mesh.address) as client,
    ):
        goes_on = asyncio.create_task(read(client, allowed_targets=["cloud"]))
        await eventually(lambda: engine.running == 1)
        await servicer.sessions.stop(0)
        assert (await ask(client, allowed_targets=["cloud"])).text == "one two three four five"
        assert mesh.outcomes() == ["cloud:answered"]
        assert servicer.rpcs["Session"] == 1
        assert servicer.rpcs["Generate"] + servicer.rpcs["StreamGenerate"] == 1
        goes_on.cancel()
        await asyncio.gather(goes_on, return_exceptions=True)


async def test_the_example_of_many_at_once_runs(mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [
        found for found in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "client.session()" in found
    ]
    code = compile(example.replace("127.0.0.1:7070", mesh.address), "README.md", "exec")
    await asyncio.to_thread(exec, code, {})
    assert capsys.readouterr().out.count("one two three four five") == 6
