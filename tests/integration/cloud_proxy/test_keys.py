"""Several keys of one provider, through the whole proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import ClientResponse
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
from tests.integration.cloud_proxy.rig import Rig, declared, keyring, running, spec

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


@pytest.mark.parametrize("reached", [True, False])
async def test_what_another_key_was_refused_for_hides_nothing_of_what_was_sent_with_the_next(reached: bool) -> None:
    """The next one's request is lost after it was sent, or does not reach the provider at all."""
    simulator, exchange = OpenAISimulator(faults=Faults(Status(403), faults.Reset())), Exchange()
    async with serving_openai(simulator) as url:
        settings = ProviderSettings.model_validate(declared(url))
        keys = keyring("sk-a", "sk-b")
        provider = (HttpProvider if reached else Gone)(settings, OpenAI(settings), keys)
        prepared = provider.prepare(spec(), "m")
        try:
            with pytest.raises(errors.TargetDown):
                async for _ in provider.stream(prepared, Call("r", Deadline.after(5.0)), exchange):
                    pass
        finally:
            await provider.close()
    assert exchange.sent
    assert exchange.status == (None if reached else 403)
    assert exchange.sent_bytes == len(prepared.body) * (2 if reached else 1)


class Gone(HttpProvider):
    """A provider that cannot be reached any more once it has refused a key."""

    async def _refusal(self, response: ClientResponse, exchange: Exchange) -> errors.SpillwayError:
        refusal = await super()._refusal(response, exchange)
        self._settings = self._settings.model_copy(update={"base_url": "http://127.0.0.1:1"})
        return refusal


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
