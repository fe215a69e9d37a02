"""Everything a provider can do wrong, over real HTTP."""

from __future__ import annotations

import asyncio
import socket

import pytest

from spillway import errors
from spillway.errors import ProviderRateLimited, SpillwayError
from spillway.testing import openai_faults as faults
from spillway.testing.openai_faults import Cut, ErrorInStream, Faults, HttpFault, Malformed, Reset, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.rig import raw, running, spec


@pytest.mark.parametrize(
    ("fault", "kind", "used"),
    [
        (faults.context_length_exceeded(), errors.ContextLengthExceeded, (1, 0)),
        (faults.content_policy_violation(), errors.ContentFiltered, (1, 0)),
        (faults.out_of_credit(), errors.ProviderOutOfCredit, (1, 0)),
        (faults.rate_limited(), errors.ProviderRateLimited, (1, 0)),
        (faults.overloaded(), errors.ProviderError, (1, 0)),
        (Status(401, "invalid_api_key"), errors.ProviderAuthFailed, (1, 0)),
        (Status(403), errors.ProviderAuthFailed, (1, 0)),
        (Status(404, "model_not_found"), errors.TargetModelMissing, (1, 0)),
        (Status(408), errors.TargetTimeout, (1, 0)),
        (Status(500), errors.ProviderError, (1, 0)),
        (Status(307, headers={"location": "http://127.0.0.1:1/"}), errors.ProviderError, (1, 0)),
        (Reset(), errors.TargetDown, None),
        (Cut(after=2), errors.TargetDown, None),
        (Malformed(after=2), errors.ProviderError, None),
        (ErrorInStream(after=2), errors.ProviderError, None),
        (ErrorInStream(after=0, code=429), errors.ProviderRateLimited, None),
        (faults.MissingFinish(after=2), errors.ProviderError, None),
        (faults.Filtered(after=0), errors.ContentFiltered, None),
    ],
)
async def test_a_failure_has_its_reason_and_is_accounted(
    valkey: str, fault: HttpFault, kind: type[SpillwayError], used: tuple[int, int] | None
) -> None:
    async with running(OpenAISimulator(faults=Faults(fault)), valkey) as rig:
        assert await rig.fail(kind) == used or used is None


async def test_an_answer_with_its_finish_reason_is_whole_without_done(valkey: str) -> None:
    async with running(OpenAISimulator(faults=Faults(faults.MissingDone())), valkey) as rig:
        assert (await rig.stream(spec())).usage.completion_tokens == 6


async def test_a_provider_that_stalls_within_an_answer_is_given_less_time_than_before_it(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(faults.Stall(2), faults.SlowFirst(0.4)))
    async with running(simulator, valkey, stall_s=0.2) as rig:
        with pytest.raises(errors.TargetTimeout, match=r"stalled for 0\.2 s"):
            await rig.generate(spec())
        assert (await rig.generate(spec())).usage.completion_tokens == 6


async def test_a_provider_that_cannot_be_reached_is_down_and_costs_nothing(valkey: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with running(OpenAISimulator(), valkey, url=url) as rig:
            with pytest.raises(errors.TargetDown):
                await rig.stream(spec())
            assert await rig.used() == (0, 0)


async def test_a_provider_that_speaks_no_tls_is_down(valkey: str) -> None:
    async with (
        serving_openai(OpenAISimulator()) as url,
        running(OpenAISimulator(), valkey, url=url.replace("http:", "https:")) as rig,
    ):
        with pytest.raises(errors.TargetDown, match="TLS"):
            await rig.stream(spec())


async def test_what_is_not_http_is_an_error_of_the_provider(valkey: str) -> None:
    async with (
        raw(b"220 mail.example.com ESMTP\r\n") as port,
        running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1") as rig,
    ):
        with pytest.raises(errors.ProviderError):
            await rig.stream(spec())


async def test_a_provider_that_asks_for_rest_gets_it_from_every_proxy(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(faults.rate_limited(retry_after_s=30)))
    async with running(simulator, valkey) as rig, running(simulator, valkey) as other:
        with pytest.raises(ProviderRateLimited) as caught:
            await rig.stream(spec())
        assert caught.value.retry_after_s == 30
        for proxy in (rig, other):
            with pytest.raises(ProviderRateLimited) as closed:
                await proxy.stream(spec())
            assert closed.value.metadata["limit"] == "closed_by_provider"
            assert 0 < (closed.value.retry_after_s or 0) <= 30
    assert len(simulator.seen) == 1


async def test_a_senseless_wait_does_not_close_a_provider_for_longer_than_the_settings_say(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(faults.overloaded(retry_after_s=86_400)))
    async with running(simulator, valkey, max_closed_s=0.05) as rig:
        with pytest.raises(errors.ProviderError):
            await rig.stream(spec())
        await asyncio.sleep(0.06)
        assert (await rig.stream(spec())).usage.completion_tokens == 6


async def test_a_server_that_does_not_stream_is_understood_all_the_same(valkey: str) -> None:
    body = (
        b'{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    async with (
        raw(head, body[:20], body[20:]) as port,
        running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1") as rig,
    ):
        response = await rig.stream(spec())
    assert response.choices[0].content.text == "hi"
    assert response.usage.prompt_tokens == 1
