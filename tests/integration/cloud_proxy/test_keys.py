"""Several keys of one provider, through the whole proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.openai import OpenAI
from spillway import errors, v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.testing import openai_faults as faults
from spillway.testing.clock import HandClock
from spillway.testing.openai_faults import ErrorInStream, Faults, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.waiting import eventually
from tests.integration.cloud_proxy.rig import Rig, call, declared, keyring, running, spec

ENVIRON = {"A": "sk-a", "B": "sk-b", "C": "sk-c"}
KEYS = [{"env": name} for name in ENVIRON]


async def standings(rig: Rig) -> list[tuple[str, str, str]]:
    told = (await rig.providers()).providers[0].keys
    return [(key.source, v1.KeyState.Name(key.state).removeprefix("KEY_STATE_"), key.why) for key in told]


async def test_a_call_goes_on_with_the_next_key_until_one_is_good_and_dead_ones_are_told(valkey: str) -> None:
    simulator = OpenAISimulator(key="sk-c")
    with capture_logs() as logs:
        async with running(simulator, valkey, environ=ENVIRON, keys=KEYS) as rig:
            for _ in range(3):
                assert (await rig.stream(spec())).usage.completion_tokens == 6
            assert await standings(rig) == [
                ("env:A", "DEAD", "PROVIDER_AUTH_FAILED"),
                ("env:B", "DEAD", "PROVIDER_AUTH_FAILED"),
                ("env:C", "USABLE", ""),
            ]
            assert (await rig.used())[0] == 3
    assert len(simulator.seen) == 5
    assert [entry["source"] for entry in logs if entry["event"] == "key.dead"] == ["env:A", "env:B"]
    assert len([entry for entry in logs if entry["event"] == "provider.request"]) == 3


async def test_when_no_key_is_left_the_provider_is_not_asked_again(valkey: str) -> None:
    simulator = OpenAISimulator(key="sk-other")
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS[:2]) as rig:
        with pytest.raises(errors.ProviderAuthFailed, match="answered 401 invalid_api_key"):
            await rig.stream(spec())
        with pytest.raises(errors.ProviderAuthFailed, match="none of its keys is valid"):
            await rig.stream(spec())
        assert (await rig.used())[0] == 1
    assert len(simulator.seen) == 2


@pytest.mark.parametrize("fault", [faults.out_of_credit(), Status(402), Status(403)])
async def test_a_key_without_credit_or_leave_rests_and_the_call_goes_on(valkey: str, fault: Status) -> None:
    simulator = OpenAISimulator(faults=Faults(fault))
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS[:2]) as rig:
        assert (await rig.generate(spec())).usage.completion_tokens == 6
        assert [state for _, state, _ in await standings(rig)] == ["RESTING", "USABLE"]


async def test_a_limited_key_rests_while_the_others_are_used(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(faults.rate_limited(30)))
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS[:2]) as rig:
        with pytest.raises(errors.ProviderRateLimited):
            await rig.stream(spec())
        assert [state for _, state, _ in await standings(rig)] == ["RESTING", "USABLE"]
        assert (await rig.stream(spec())).usage.completion_tokens == 6


@pytest.mark.parametrize("fault", [Status(500), Status(400), faults.Reset(), faults.Cut(1)])
async def test_nothing_else_is_tried_with_another_key(valkey: str, fault: faults.HttpFault) -> None:
    simulator = OpenAISimulator(faults=Faults(fault))
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS) as rig:
        with pytest.raises(errors.SpillwayError):
            await rig.stream(spec())
        assert {state for _, state, _ in await standings(rig)} == {"USABLE"}
    assert len(simulator.seen) == 1


async def test_a_key_whose_credit_ends_within_an_answer_rests_too(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(ErrorInStream(after=1, code="insufficient_quota")))
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS[:2]) as rig:
        with pytest.raises(errors.ProviderOutOfCredit):
            await rig.stream(spec())
        assert [state for _, state, _ in await standings(rig)] == ["RESTING", "USABLE"]
    assert len(simulator.seen) == 1


async def test_a_key_that_may_not_within_an_answer_rests_as_before_it(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(ErrorInStream(after=1, code=403, type="forbidden")))
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS[:2]) as rig:
        with pytest.raises(errors.ProviderAuthFailed):
            await rig.stream(spec())
        assert [state for _, state, _ in await standings(rig)] == ["RESTING", "USABLE"]


async def test_what_the_next_key_was_not_answered_is_not_taken_for_refused(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Status(401), faults.Reset()))
    async with running(simulator, valkey, environ=ENVIRON, keys=KEYS[:2]) as rig:
        with pytest.raises(errors.TargetDown):
            await rig.stream(spec())
        requests, tokens = await rig.used()
    assert requests == 1
    assert tokens > 0  # it may have been read, and be billed


async def test_what_left_under_the_first_key_has_left_where_the_next_one_goes_nowhere() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.close()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    settings = ProviderSettings.model_validate(declared(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    provider, exchange = HttpProvider(settings, OpenAI(settings), keyring("sk-a", "sk-b")), Exchange()
    prepared = provider.prepare(spec(), "m")
    try:
        with pytest.raises(errors.TargetDown):
            async for _ in provider.stream(prepared, call(), exchange):
                pass
    finally:
        await provider.close()
    assert (exchange.sent, exchange.sent_bytes, exchange.status) == (True, len(prepared.body), 401)


async def test_the_next_key_is_tried_inside_the_deadline_or_not_at_all() -> None:
    clock = HandClock()

    async with serving_openai(OpenAISimulator(key="sk-other")) as url:
        settings = ProviderSettings.model_validate(declared(url))
        keys = keyring("sk-a", "sk-b")
        provider = HttpProvider(settings, Late(settings, clock), keys)
        try:
            with pytest.raises(errors.DeadlineExceeded):
                async for _ in provider.stream(
                    provider.prepare(spec(), "m"), Call("r", Deadline.after(5.0, clock)), Exchange()
                ):
                    pass
        finally:
            await provider.close()
    assert [standing.state.name for standing in keys.standings()] == ["DEAD", "USABLE"]


class Late(OpenAI):
    """It takes all the time there is to understand a refusal."""

    def __init__(self, settings: ProviderSettings, clock: HandClock) -> None:
        super().__init__(settings)
        self._late = clock

    def refusal(self, *told: object, **more: object) -> errors.SpillwayError:
        self._late.advance(60.0)
        return super().refusal(*told, **more)  # type: ignore[arg-type]


async def test_a_new_key_in_a_secrets_folder_opens_the_provider_again_without_a_restart(
    valkey: str, tmp_path: Path
) -> None:
    file = tmp_path / "openai"
    file.write_text("sk-old")
    async with running(OpenAISimulator(key="sk-new"), valkey, keys_dir=tmp_path) as rig:
        with pytest.raises(errors.ProviderAuthFailed):
            await rig.stream(spec())
        file.write_text("sk-new")
        keys = rig.app.keyrings["openai"]
        await eventually(lambda: keys.closed() is None)
        assert (await rig.stream(spec())).usage.completion_tokens == 6
        file.unlink()
        await eventually(lambda: not keys.standings())
        with pytest.raises(errors.ProviderAuthFailed, match="all its keys have been removed"):
            await rig.stream(spec())
        assert not (await rig.providers()).providers[0].has_key
