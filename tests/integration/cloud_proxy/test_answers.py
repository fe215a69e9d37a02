"""Generations through the cloud proxy, over gRPC and real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.cloud_proxy.proxy import prompt_estimate
from spillway import v1
from spillway.errors import (
    ConstraintUnsupported,
    DeadlineExceeded,
    KeyUnknown,
    ModelUnknown,
    PolicyBlocked,
    RequestInvalid,
    ScopeMissing,
    TargetTimeout,
)
from spillway.rpc.keys import hash_key
from spillway.rpc.remote import Remote
from spillway.settings import ServerSettings, SettingsError
from spillway.telemetry import names
from spillway.testing.openai_faults import Faults, Filtered, Refusal, Silence, SlowFirst, Stall
from spillway.testing.openai_simulator import OpenAISimulator
from spillway.v1 import inference_pb2_grpc
from tests.integration.cloud_proxy.rig import MODEL, SCHEMA, STAMP, running, spec


async def test_an_answer_is_streamed_with_usage_cost_and_its_model(valkey: str) -> None:
    async with running(OpenAISimulator(cached_tokens=3, reasoning_tokens=4), valkey) as rig:
        events = [event async for event in rig.events(spec())]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert set(kinds[1:-2]) == {"delta"}
    assert kinds[-2:] == ["finished", "usage"]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert "".join(event.delta.text for event in events) == "Simulated cloud answer to: hello there"
    started, usage = events[0].started, events[-1].usage
    assert (started.target, started.model, started.request_id) == (MODEL, "gpt-4o-mini-simulated", "test-request")
    counts = (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    assert counts == (5, 3, 10, 4)
    assert usage.cost_nano_usd == 2 * 150 + 3 * 75 + 10 * 600
    assert 0 <= usage.timings.first_token_ms <= usage.timings.total_ms


async def test_a_unary_answer_is_the_stream_folded(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey) as rig:
        response = await rig.generate(spec())
        streamed = await rig.stream(spec())
    assert response.choices == streamed.choices
    assert response.choices[0].finish.reason == v1.FINISH_REASON_STOP
    assert response.usage.completion_tokens == 6


async def test_the_headers_name_target_and_model(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey) as rig:
        stub = inference_pb2_grpc.InferenceServiceStub(rig.remote.channel)
        unary = stub.Generate(v1.GenerateRequest(spec=spec(), stamp=STAMP), timeout=20)
        stream = stub.StreamGenerate(v1.StreamGenerateRequest(spec=spec(), stamp=STAMP), timeout=20)
        found = [dict(await unary.initial_metadata()), dict(await stream.initial_metadata())]
        await unary
        stream.cancel()
    for headers in found:
        assert headers["x-spillway-target"] == MODEL
        assert headers["x-spillway-model"] == "gpt-4o-mini-simulated"


async def test_json_tools_choices_and_logprobs_pass_through(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey) as rig:
        held = await rig.stream(spec(constraint=v1.OutputConstraint(json_schema=json.dumps(SCHEMA))))
        free = await rig.stream(spec(constraint=v1.OutputConstraint(json_object=True)))
        tool = v1.Tool(name="look", parameters_json_schema=json.dumps(SCHEMA))
        called = await rig.stream(spec(tools=[tool], tool_choice=v1.ToolChoice(name="look")))
        many = await rig.stream(spec(sampling=v1.Sampling(n=3), logprobs=v1.Logprobs(top=2)))
        others = v1.OutputConstraint(json_schema='{"$ref": "urn:label"}', schemas={"urn:label": json.dumps(SCHEMA)})
        whole = await rig.stream(spec(constraint=others))
    assert json.loads(held.choices[0].content.text) == {"label": "billing", "score": 1}
    assert json.loads(whole.choices[0].content.text) == {"label": "billing", "score": 1}
    assert json.loads(free.choices[0].content.text).keys() == {"simulated"}
    made = called.choices[0].content.tool_calls[0]
    assert (made.id, made.name, json.loads(made.arguments)) == (
        "call_simulated_0_0",
        "look",
        {"label": "billing", "score": 1},
    )
    assert called.choices[0].finish.reason == v1.FINISH_REASON_TOOL_CALLS
    assert [choice.content.text[-4:] for choice in many.choices] == ["here", " (2)", " (3)"]
    for choice in many.choices:
        assert "".join(told.token for told in choice.content.logprobs) == choice.content.text
        assert len(choice.content.logprobs[0].top) == 2


async def test_length_refusal_and_filter_are_finish_reasons(valkey: str) -> None:
    faults = Faults(None, Refusal(), Filtered(after=2))
    async with running(OpenAISimulator(faults=faults), valkey) as rig:
        cut = await rig.stream(spec(sampling=v1.Sampling(max_tokens=2)))
        refused = await rig.stream(spec())
        filtered = await rig.stream(spec())
    assert (cut.choices[0].content.text, cut.choices[0].finish.reason) == ("Simulated cloud", v1.FINISH_REASON_LENGTH)
    assert refused.choices[0].content.text.startswith("I'm sorry")
    assert refused.choices[0].finish.reason == v1.FINISH_REASON_CONTENT_FILTER
    assert filtered.choices[0].content.text == "Simulated cloud"
    assert filtered.choices[0].finish.reason == v1.FINISH_REASON_CONTENT_FILTER
    assert not filtered.usage.HasField("completion_tokens")


async def test_a_private_prompt_is_refused_even_if_a_router_asked(valkey: str) -> None:
    simulator = OpenAISimulator()
    blocked = [
        None,
        v1.PolicyStamp(router="r"),
        v1.PolicyStamp(router="r", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY)),
        v1.PolicyStamp(router="r", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_REGIONS, regions=["eu"])),
        v1.PolicyStamp(
            router="r",
            data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_RESTRICTED),
        ),
        v1.PolicyStamp(router="r", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY, max_retention_days=0)),
    ]
    async with running(simulator, valkey) as rig:
        for stamp in blocked:
            with pytest.raises(PolicyBlocked):
                await rig.stream(spec("my diagnosis"), stamp=stamp)
            with pytest.raises(PolicyBlocked):
                await rig.generate(spec("my diagnosis"), stamp=stamp)
        assert await rig.used() == (0, 0)
    assert simulator.seen == []


async def test_what_is_wrong_with_a_request_is_named_before_anything_is_sent(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, valkey) as rig:
        with pytest.raises(ModelUnknown):
            await rig.stream(spec(model="openai/none"))
        with pytest.raises(RequestInvalid, match=r"spec\.model"):
            await rig.stream(spec(model=""))
        with pytest.raises(RequestInvalid) as caught:
            await rig.stream(spec(sampling=v1.Sampling(max_tokens=-1)))
        assert caught.value.fields[0].field == "spec.sampling.max_tokens"
        with pytest.raises(ConstraintUnsupported) as unsupported:
            await rig.generate(spec(constraint=v1.OutputConstraint(regex="a")))
        assert unsupported.value.fields[0].field == "spec.constraint.regex"
        assert await rig.used() == (0, 0)
    assert simulator.seen == []


async def test_a_cancelled_stream_reaches_the_provider_at_once(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Stall(after=3)))
    async with running(simulator, valkey) as rig:
        await rig.leave_early()
        requests, tokens = await rig.used()
        assert requests == 1
        assert 0 < tokens < 100  # the prompt and what had been said, not the whole reservation
        [span] = rig.spans(names.PROVIDER_REQUEST)
    assert span.attributes is not None
    assert span.attributes[names.ERROR_TYPE] == "CANCELLED"


async def test_a_unary_call_that_is_given_up_reaches_the_provider_too(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Silence()))
    async with running(simulator, valkey) as rig:
        task = asyncio.create_task(rig.generate(spec()))
        await simulator.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await simulator.left.wait()
    assert simulator.running == 0


async def test_the_deadline_reaches_the_provider_as_what_is_left_of_it(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Silence(), Stall(after=1)))
    async with running(simulator, valkey) as rig:
        for _ in range(2):
            simulator.left.clear()
            with pytest.raises(DeadlineExceeded):
                await rig.stream(spec(), seconds=0.3)
            async with asyncio.timeout(5):
                await simulator.left.wait()
    for seen in simulator.seen:
        assert 0 < int(seen.headers["x-spillway-deadline-ms"]) <= 300
        assert seen.disconnected_at is not None


async def test_a_silent_provider_is_a_timeout_of_the_target_and_not_the_callers(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Silence(), Stall(after=2)))
    async with running(simulator, valkey, idle_s=0.2) as rig:
        for _ in range(2):
            with pytest.raises(TargetTimeout):
                await rig.stream(spec())
    assert simulator.running == 0


async def test_a_slow_first_token_within_the_idle_time_is_waited_for(valkey: str) -> None:
    async with running(OpenAISimulator(faults=Faults(SlowFirst(0.2))), valkey) as rig:
        response = await rig.stream(spec())
    assert response.usage.timings.first_token_ms >= 200


async def test_one_span_tells_of_the_exchange_and_only_a_simulated_provider_gets_the_trace(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, valkey) as rig:
        await rig.stream(spec())
        [span] = rig.spans(names.PROVIDER_REQUEST)
        [server] = rig.spans("spillway.v1.InferenceService/StreamGenerate")
    assert span.parent is not None
    assert server.context is not None
    assert span.parent.span_id == server.context.span_id
    assert {name: value for name, value in (span.attributes or {}).items() if name != names.DEADLINE_LEFT_MS} == {
        names.PROVIDER: "openai",
        names.MODEL: "gpt-4o-mini",
        names.ANSWERED_BY: "gpt-4o-mini-simulated",
        names.SIMULATED: True,
        names.HTTP_STATUS: 200,
        names.INPUT_TOKENS: 5,
        names.OUTPUT_TOKENS: 6,
        names.COST: 5 * 150 + 6 * 600,
    }
    assert span.context is not None
    assert f"{span.context.span_id:016x}" in simulator.seen[0].headers["traceparent"]
    async with running(simulator, valkey, simulated=False) as rig:
        await rig.stream(spec())
    ours = {name for name in simulator.seen[1].headers if name.startswith(("trace", "x-spillway"))}
    assert ours == set()


async def test_a_finished_answers_connection_is_used_again(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, valkey, max_connections=1) as rig:
        for _ in range(20):
            await rig.stream(spec())
        await asyncio.gather(*(rig.stream(spec()) for _ in range(20)))
    assert len(simulator.seen) == 40


async def test_models_and_providers_are_listed_without_secrets(valkey: str) -> None:
    environ = {"KEY": "sk-secret"}
    limits = {"requests_per_minute": 10}
    async with running(OpenAISimulator(), valkey, environ=environ, key_env="KEY", limits=limits) as rig:
        await rig.stream(spec())
        models = (await rig.models()).models
        providers = (await rig.providers()).providers
    limit = providers[0].limits[0]
    assert 0 < limit.free_in_ms <= 61_250
    limit.ClearField("free_in_ms")
    assert [(model.name, model.kind, model.region, model.context_window) for model in models] == [
        (MODEL, v1.TARGET_KIND_CLOUD, "us", 128_000)
    ]
    assert v1.CAPABILITY_JSON_SCHEMA in models[0].capabilities
    del providers[0].limits[1:]  # what the provider's headers say of its own limits
    assert list(providers) == [
        v1.Provider(
            name="openai",
            simulated=True,
            region="us",
            models=[MODEL],
            has_key=True,
            keys=[v1.ProviderKey(source="env:KEY", state=v1.KEY_STATE_USABLE)],
            wire="openai",
            limits=[v1.RateLimit(name="requests_per_minute", limit=10, remaining=9)],
        )
    ]


async def test_tokens_are_counted_as_an_estimate_and_say_so(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey) as rig:
        counted = await rig.count(spec("中文中文"))
    assert (counted.tokens, counted.exact, counted.model) == (4, False, MODEL)
    image = v1.Part(image=v1.Image(url="https://example.com/a.png"))
    asked = v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[image])]))
    assert prompt_estimate(asked) == 1000


async def test_only_a_router_may_call_where_keys_are_configured(valkey: str, tmp_path: Path) -> None:
    entries = [
        {"name": name, "sha256": hash_key(name), "tenant": "t", "scopes": [scope]}
        for name, scope in (("router-key", "route"), ("caller-key", "generate"))
    ]
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
    server = ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0, keys_file=tmp_path / "keys.yaml")
    async with running(OpenAISimulator(), valkey, server=server) as rig:
        with pytest.raises(KeyUnknown):
            await rig.stream(spec())
        for key, refused in (("caller-key", True), ("router-key", False)):
            rig.remote = Remote(rig.app.server.address, tracing=rig.tracing, key=key, name=key)
            try:
                if refused:
                    with pytest.raises(ScopeMissing):
                        await rig.stream(spec())
                else:
                    await rig.stream(spec())
            finally:
                await rig.remote.close()


async def test_a_provider_whose_key_is_missing_keeps_the_service_from_starting(valkey: str) -> None:
    with pytest.raises(SettingsError, match=r"providers\.0\.key_env"):
        async with running(OpenAISimulator(), valkey, key_env="NOT_SET"):
            pass


async def test_no_socket_waits_to_fill_a_packet(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    plain = aiohttp.ClientResponse.start

    async def looking(self: aiohttp.ClientResponse, connection: Any) -> aiohttp.ClientResponse:
        sock = connection.transport.get_extra_info("socket")
        found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return await plain(self, connection)

    monkeypatch.setattr(aiohttp.ClientResponse, "start", looking)
    async with running(OpenAISimulator(interval_s=0.005), valkey) as rig:
        for _ in range(3):
            await rig.stream(spec())
    assert len(found) == 3
    assert all(found)
