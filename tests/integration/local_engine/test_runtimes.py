"""The engine before runtimes that run by themselves, through gRPC on one side and HTTP on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from services.local_engine.app import build
from services.local_engine.presets import PRESETS
from spillway import errors, v1
from spillway.errors import SpillwayError
from spillway.settings import SettingsError
from spillway.testing.faults import Cut, Silence, Stall
from spillway.testing.openai_faults import (
    Faults,
    Malformed,
    MissingFinish,
    Page,
    Reset,
    Status,
    context_length_exceeded,
    overloaded,
)
from spillway.testing.openai_wire import Called
from spillway.testing.runtime_simulator import PARAMETERS, RuntimeSimulator, serving_runtime
from spillway.testing.waiting import eventually
from tests.integration.local_engine.runtime_rig import asking, engine, free_port, running, settings

EVERY = [*PARAMETERS, "openai"]
GREEDY = v1.Sampling(temperature=0, max_tokens=5)
TOOL = v1.Tool(name="find", parameters_json_schema='{"type": "object", "required": ["id"]}')
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


def talkative(kind: str, words: int = 5000) -> RuntimeSimulator:
    """Says one word to whoever warms it up, and many to all others."""

    def answer(body: Mapping[str, Any]) -> str:
        return "word " * (1 if body.get("max_tokens") == 1 else words)

    return RuntimeSimulator(kind=kind, answer=answer, interval_s=0.002)


# Answers.


@pytest.mark.parametrize("kind", EVERY)
async def test_every_runtime_answers_and_tells_what_it_used(kind: str) -> None:
    async with running(kind) as rig:
        events = await rig.events(asking(sampling=GREEDY))
        whole = await rig.generate(asking(sampling=GREEDY))
    told = [event.WhichOneof("event") for event in events]
    assert told[0] == "started"
    assert told[-2:] == ["finished", "usage"]
    text = "".join(event.delta.text for event in events)
    assert text == whole.choices[0].content.text == "Simulated cloud answer to: Where"
    assert whole.choices[0].finish.reason == v1.FINISH_REASON_LENGTH
    told_of = [whole.usage.HasField(name) for name in ("prompt_tokens", "completion_tokens")]
    assert told_of == [PRESETS[kind].usage != "never"] * 2
    if all(told_of):
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 5)
    assert whole.usage.timings.HasField("first_token_ms")


@pytest.mark.parametrize("kind", EVERY)
async def test_what_a_runtime_has_no_word_for_is_refused_by_name_and_never_sent(kind: str) -> None:
    async with running(kind) as rig:
        asked = len(rig.simulator.seen)
        for field, value in {"top_k": 7, "min_p": 0.5, "repetition_penalty": 1.5, "n": 2, "seed": 3}.items():
            spec = asking(sampling=v1.Sampling(max_tokens=3, temperature=0.5))
            setattr(spec.sampling, field, value)
            try:
                await rig.generate(spec)
            except errors.ConstraintUnsupported as error:
                assert [violation.field for violation in error.fields] == [f"spec.sampling.{field}"]
                assert len(rig.simulator.seen) == asked
            else:  # the simulated runtime refuses what the real one does not know
                assert len(rig.simulator.seen) == (asked := asked + 1)


@pytest.mark.parametrize("kind", ["vllm-serve", "llama-cpp", "ollama", "lm-studio", "tensorrt-llm", "openai"])
async def test_an_answer_is_held_to_a_schema(kind: str) -> None:
    spec = asking(constraint=v1.OutputConstraint(json_schema=SCHEMA))
    async with running(kind) as rig:
        assert (await rig.generate(spec)).choices[0].content.text == '{"a": 0}'
        spec.constraint.enforcement = v1.ENFORCEMENT_CHECKED
        await rig.generate(spec)
        assert "response_format" not in rig.asked


async def test_a_runtime_is_told_a_schema_and_those_it_refers_to_as_one() -> None:
    constraint = v1.OutputConstraint(json_schema='{"$ref": "urn:a"}', schemas={"urn:a": SCHEMA})
    async with running("llama-cpp") as rig:
        assert (await rig.generate(asking(constraint=constraint))).choices[0].content.text == '{"a": 0}'
        assert rig.asked["response_format"]["json_schema"]["schema"]["$ref"] == "#/$defs/a"
        asked = len(rig.simulator.seen)
        constraint.schemas.clear()
        with pytest.raises(errors.ConstraintUnsupported, match="urn:a") as refused:
            await rig.generate(asking(constraint=constraint))
        assert len(rig.simulator.seen) == asked
    assert [violation.field for violation in refused.value.fields] == ["spec.constraint.json_schema"]


@pytest.mark.parametrize("kind", ["llama-cpp-python", "jan", "gpt4all", "mlx", "transformers"])
async def test_a_runtime_that_cannot_hold_an_answer_to_a_schema_is_not_asked(kind: str) -> None:
    async with running(kind) as rig:
        with pytest.raises(errors.ConstraintUnsupported) as refused:
            await rig.generate(asking(constraint=v1.OutputConstraint(json_schema=SCHEMA)))
    assert [violation.field for violation in refused.value.fields] == ["spec.constraint.json_schema"]


@pytest.mark.parametrize("kind", ["llama-cpp", "ollama", "lm-studio", "jan", "tensorrt-llm", "mlx", "transformers"])
async def test_tools_are_called(kind: str) -> None:
    def calls(body: Mapping[str, Any]) -> list[Called]:
        return [Called("find", '{"id": "7"}')] if body.get("tools") else []

    async with running(kind, RuntimeSimulator(kind=kind, calls=calls)) as rig:
        (choice,) = (await rig.generate(asking(tools=[TOOL]))).choices
    (called,) = choice.content.tool_calls
    assert (called.name, called.arguments) == ("find", '{"id": "7"}')
    assert choice.finish.reason == v1.FINISH_REASON_TOOL_CALLS


async def test_log_probabilities_come_where_the_runtime_tells_them() -> None:
    spec = asking(sampling=GREEDY, logprobs=v1.Logprobs(top=2))
    for num_ctx in (None, 2048):
        async with running("ollama", num_ctx=num_ctx) as rig:
            (choice,) = (await rig.generate(spec)).choices
            assert [len(one.top) for one in choice.content.logprobs] == [2] * 5
    async with running("lm-studio") as rig:
        with pytest.raises(errors.ConstraintUnsupported, match="logprobs"):
            await rig.generate(spec)


async def test_log_probabilities_without_alternatives_are_asked_for_by_number_where_that_must_be() -> None:
    async with running("llama-cpp-python") as rig:
        await rig.generate(asking(sampling=GREEDY, logprobs=v1.Logprobs()))
        assert rig.asked["top_logprobs"] == 0


async def test_a_runtime_that_a_faulty_grammar_would_end_is_sent_one_only_where_the_settings_say_so() -> None:
    spec = asking(constraint=v1.OutputConstraint(grammar='root ::= "yes"'))
    async with running("llama-cpp-python") as rig:
        with pytest.raises(errors.ConstraintUnsupported, match="grammar"):
            await rig.generate(spec)
    async with running("llama-cpp-python", capabilities=["grammar"]) as rig:
        await rig.generate(spec)
        assert rig.asked["grammar"] == 'root ::= "yes"'


async def test_what_ollama_alone_takes_is_told_in_its_own_words() -> None:
    simulator = RuntimeSimulator(kind="ollama", models=("llama3:latest", "other"))
    async with running("ollama", simulator, model="llama3", num_ctx=64, keep_alive="-1") as rig:
        assert rig.app.engine.models()[0].context_window == 64
        await rig.generate(asking(sampling=v1.Sampling(temperature=0, top_k=3, max_tokens=5)))
        asked = rig.asked
        with pytest.raises(errors.ContextLengthExceeded):  # it would cut the prompt, and not say so
            await rig.generate(asking("word " * 100))
    assert asked["model"] == "llama3:latest"
    assert asked["keep_alive"] == -1
    assert asked["options"] == {"temperature": 0.0, "top_k": 3, "num_predict": 5, "num_ctx": 64}


async def test_a_whole_answer_is_there_when_it_is_said_though_the_connection_stays_open() -> None:
    said = b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}, "finish_reason": %s}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path == b"/v1/models":
            writer.write(b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{"data": [{"id": "m"}]}')
            writer.close()
            return
        for piece in (head, said % (b"a", b"null"), said % (b"b", b"null"), said % (b"c", b'"stop"')):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        await reader.read()  # until the other side has had enough
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with engine("openai", address, RuntimeSimulator(), health_s=60) as rig:
            await rig.app.starting
            whole = await rig.generate(asking())
            streamed = await rig.events(asking(coalescing=v1.Coalescing(window_ms=0)))
    assert whole.choices[0].content.text == "abc"
    assert "".join(event.delta.text for event in streamed) == "abc"
    assert not whole.usage.HasField("prompt_tokens")  # it did not say


# Failures.


@pytest.mark.parametrize(
    ("fault", "error", "retry"),
    [
        (Status(404, "model_not_found"), errors.TargetModelMissing, False),
        (Page(404), errors.TargetModelMissing, False),
        (overloaded(), errors.TargetBusy, True),
        (Status(429), errors.TargetBusy, True),
        (Status(500), errors.TargetDown, False),
        (Page(502), errors.TargetDown, False),
        (Page(200), errors.TargetDown, False),
        (Reset(), errors.TargetDown, False),
        (Malformed(2), errors.TargetDown, False),
        (Cut(2), errors.TargetDown, False),
        (Status(401), errors.ProviderAuthFailed, False),
        (Status(400, param="stop"), errors.RequestInvalid, False),
        (context_length_exceeded(), errors.ContextLengthExceeded, False),
        (Status(400, type="exceed_context_size_error"), errors.ContextLengthExceeded, False),
    ],
    ids=repr,
)
async def test_what_goes_wrong_at_a_runtime_has_a_name(fault: Any, error: type[SpillwayError], retry: bool) -> None:
    async with running("llama-cpp", talkative("llama-cpp", 9)) as rig:
        for ask in (rig.generate, rig.events):
            rig.simulator.faults = Faults(fault)
            with pytest.raises(error) as raised:
                await ask(asking())
            assert type(raised.value) is error
            assert (raised.value.retry_after_s is not None) is retry
        assert (await rig.generate(asking())).choices[0].content.text.startswith("word")


async def test_a_failure_that_may_be_mended_elsewhere_says_so() -> None:
    async with running("lm-studio") as rig:
        rig.simulator.faults = Faults(Status(404, "model_not_found", message="No models loaded."))
        with pytest.raises(errors.TargetModelMissing) as raised:
            await rig.generate(asking())
    assert raised.value.elsewhere


@pytest.mark.parametrize("fault", [Silence(), Stall(2)], ids=repr)
async def test_a_runtime_that_accepts_and_never_answers_is_left(fault: Any) -> None:
    async with running("openai", talkative("openai"), silence_s=0.3, idle_s=0.3) as rig:
        rig.simulator.left.clear()
        rig.simulator.faults = Faults(fault)
        with pytest.raises(errors.TargetTimeout):
            await rig.events(asking())
        async with asyncio.timeout(10):
            await rig.simulator.left.wait()
        assert rig.simulator.running == 0


async def test_an_answer_that_the_next_request_broke_off_is_never_told_as_whole() -> None:
    async with running("llama-cpp-python") as rig:
        rig.simulator.faults = Faults(MissingFinish(2))
        with pytest.raises(errors.TargetDown, match="no finish reason"):
            await rig.generate(asking())


async def test_the_health_of_a_runtime_that_takes_one_call_is_asked_of_what_disturbs_none() -> None:
    async with running("llama-cpp-python") as rig:
        await eventually(lambda: len(rig.simulator.asks) > 3)
    assert set(rig.simulator.asks) == {"/docs"}


async def test_a_caller_that_leaves_closes_the_connection_at_once() -> None:
    async with running("llama-cpp", talkative("llama-cpp")) as rig:
        async with rig.stream(asking()) as responses:
            async for response in responses:
                if response.event.HasField("delta"):
                    break
        async with asyncio.timeout(10):
            await rig.simulator.left.wait()
        await eventually(lambda: rig.simulator.running == 0 and rig.app.engine.running == 0)


async def test_the_callers_deadline_is_the_callers_and_no_fault_of_the_runtime() -> None:
    async with running("openai", talkative("openai")) as rig:
        with pytest.raises(errors.DeadlineExceeded):
            await rig.generate(asking(), seconds=0.3)
        await eventually(lambda: rig.simulator.running == 0)


# From starting to serving, and back.


async def test_an_engine_waits_for_its_runtime_and_says_for_what() -> None:
    port = free_port()
    simulator = RuntimeSimulator(kind="llama-cpp", healthy=False)
    async with engine("llama-cpp", f"http://127.0.0.1:{port}", simulator) as rig:
        await eventually(lambda: "cannot be reached" in rig.app.engine.why)
        with pytest.raises(errors.TargetDown, match="llama-cpp cannot be reached"):
            await rig.generate(asking())
        async with serving_runtime(simulator, port=port):
            await eventually(lambda: "503" in rig.app.engine.why)
            assert (await rig.load()).state == v1.ENGINE_STATE_STARTING
            assert not rig.app.server.health.ready
            simulator.healthy = True
            await rig.app.starting
            assert rig.app.server.health.ready
            assert (await rig.generate(asking())).choices[0].content.text


async def test_an_engine_waits_for_the_model_it_is_to_serve() -> None:
    simulator = RuntimeSimulator(kind="ollama", models=("other",))
    async with (
        serving_runtime(simulator) as address,
        engine("ollama", address, simulator, model="wanted") as rig,
    ):
        await eventually(lambda: "ollama has no model 'wanted': it has other" in rig.app.engine.why)
        simulator.models = ("other", "wanted:latest")
        await rig.app.starting
        await rig.generate(asking())
        assert rig.asked["model"] == "wanted:latest"


@pytest.mark.parametrize("kind", ["mlx", "transformers"])
async def test_where_the_list_is_that_of_a_cache_the_name_is_taken_at_its_word(kind: str) -> None:
    simulator = RuntimeSimulator(kind=kind, models=("a/model",), lists=False)
    async with running(kind, simulator, model="a/model") as rig:
        assert (await rig.generate(asking())).choices[0].content.text
        assert rig.asked["model"] == "a/model"


async def test_where_there_are_several_models_one_must_be_named() -> None:
    simulator = RuntimeSimulator(kind="lm-studio", models=("one", "two"))
    async with serving_runtime(simulator) as address, build(settings("lm-studio", address)) as app:
        with pytest.raises(SettingsError, match=r"runtime\.model: lm-studio has several: name one of one, two"):
            await app.starting


async def test_a_runtime_that_falls_ill_is_unhealthy_until_it_is_well() -> None:
    async with running("llama-cpp") as rig:
        rig.simulator.healthy = False
        await eventually(lambda: not rig.app.server.health.ready)
        assert (await rig.load()).state == v1.ENGINE_STATE_UNHEALTHY
        with pytest.raises(errors.TargetDown, match="llama-cpp answered 503"):
            await rig.generate(asking())
        rig.simulator.healthy = True
        await eventually(lambda: rig.app.server.health.ready)
        assert (await rig.load()).state == v1.ENGINE_STATE_SERVING
        assert (await rig.generate(asking())).choices[0].content.text


async def test_a_runtime_that_comes_back_with_another_context_is_known_by_it() -> None:
    port = free_port()
    simulator = RuntimeSimulator(kind="vllm-serve")
    async with engine("vllm-serve", f"http://127.0.0.1:{port}", simulator) as rig:
        async with serving_runtime(simulator, port=port):
            await rig.app.starting
            assert rig.app.engine.models()[0].context_window == 4096
        await eventually(lambda: not rig.app.server.health.ready)
        simulator.context_window = 512
        async with serving_runtime(simulator, port=port):
            await eventually(lambda: rig.app.server.health.ready)
            assert rig.app.engine.models()[0].context_window == 512


async def test_the_key_comes_from_the_environment_and_is_told_to_the_runtime_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JAN_KEY", "a-key-of-mine")
    async with running("jan", RuntimeSimulator(kind="jan", key="a-key-of-mine"), api_key_env="JAN_KEY") as rig:
        assert (await rig.generate(asking())).choices[0].content.text
        assert "a-key-of-mine" not in repr(vars(rig.app.engine)) + caplog.text


# Tokens and load.


@pytest.mark.parametrize(("kind", "exact"), [("vllm-serve", True), ("llama-cpp", True), ("ollama", False)])
async def test_tokens_are_counted_by_the_runtime_where_it_can_and_estimated_where_not(kind: str, exact: bool) -> None:
    async with running(kind) as rig:
        count = await rig.count(asking())
        assert count.exact is exact
        if exact:
            assert count.tokens == (await rig.generate(asking())).usage.prompt_tokens


@pytest.mark.parametrize("kind", ["vllm-serve", "llama-cpp"])
async def test_the_load_has_what_others_run_there(kind: str) -> None:
    async with running(kind) as rig:
        assert (await rig.load()).running == 0
        rig.simulator.others = 3
        await eventually(lambda: rig.app.engine.load().running == 3)
        assert (await rig.load()).HasField("kv_cache_usage") is (kind == "vllm-serve")


async def test_the_load_of_a_runtime_that_tells_none_is_our_own() -> None:
    async with running("openai", talkative("openai")) as rig, rig.stream(asking()) as responses:
        async for response in responses:
            if response.event.HasField("delta"):
                break
        load = await rig.load()
        assert load.running == 1
        assert not load.HasField("waiting")
