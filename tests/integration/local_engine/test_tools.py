"""Tools and reasoning on the real vLLM, by a model that says what is written here (scripted_model.py)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from services.router.app import build as build_router
from services.router.http.settings import HttpSettings
from services.router.policy_settings import TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.errors import ConstraintUnsupported, SpillwayError
from spillway.generation import Folder
from spillway.rpc.remote import Remote
from spillway.settings import SettingsError
from spillway.telemetry.collector import Collector
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from tests.integration.local_engine import scripted_model
from tests.integration.local_engine.conftest import Client

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

START_S = 300.0
PLAIN, THINK, CALL, BAD = "§plain", "§think", "§call", "§bad"
SCRIPTS = {
    PLAIN: ["It is", " on its", " way."],
    THINK: ["<think>", "Rain", ", or ", "sun?", "</think>", "It will", " be sunny."],
    CALL: [
        "Let me",
        " see. ",
        "<tool_call>",
        '\n{"name": "weather", "argu',
        'ments": {"city": "Kö',
        'ln"}}',
        "\n</tool_call>",
    ],
    BAD: ["Well: ", "<tool_call>\nnon", "sense", "</tool_call>"],
}
CITY = {"city": "Köln"}
SCHEMA = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
TOOLS = [v1.Tool(name="weather", description="how it is", parameters_json_schema=SCHEMA), v1.Tool(name="clock")]
GREEDY = v1.Sampling(temperature=0, max_tokens=60)
AT_ONCE = v1.Coalescing(window_ms=0)
OFF, ON = v1.REASONING_EFFORT_NONE, v1.REASONING_EFFORT_HIGH
REQUIRED = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model.write(tmp_path_factory.mktemp("models") / "scripted", SCRIPTS)


def configured(folder: Path, tool_parser: str) -> Any:
    from services.local_engine.settings import CpuSettings, LocalEngineSettings, VllmSettings

    vllm = VllmSettings(
        max_model_len=512,
        tool_parser=tool_parser,
        reasoning_parser="deepseek_r1",
        cpu=CpuSettings(kv_cache_gib=0.25),
    )
    return LocalEngineSettings(server=LOOPBACK, model=str(folder), vllm=vllm)


@pytest.mark.parametrize(
    ("parser", "why"),
    [("hermez", "'hermez' is not a parser of this vLLM; known: .*hermes"), ("deepseek_v3", "cannot be used with")],
)
async def test_a_parser_that_cannot_read_this_model_ends_the_start(folder: Path, parser: str, why: str) -> None:
    from services.local_engine.app import build

    async with build(configured(folder, parser)) as app:
        async with asyncio.timeout(START_S):
            with pytest.raises(SettingsError, match=why):
                await app.starting


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[Client]:
    from services.local_engine.app import build

    async with build(configured(folder, "hermes")) as app:
        async with asyncio.timeout(START_S):
            await app.starting
        tracing = Tracing("test")
        remote = Remote(app.server.address, tracing=tracing)
        yield Client(remote, tracing, Collector())
        await remote.close()


@pytest.fixture(scope="module")
def likely(folder: Path) -> v1.Sampling:
    """Greedy, and where a guide forbids what the model would say it says the beginning of a call."""
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    marker = next(token["id"] for token in added if token["content"] == "<tool_call>")
    return v1.Sampling(temperature=0, max_tokens=60, logit_bias={marker: 8})


def asked(cue: str, effort: v1.ReasoningEffort.ValueType = OFF, **fields: Any) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=cue)])])
    return v1.GenerationSpec(
        chat=chat, **{"sampling": GREEDY, "coalescing": AT_ONCE, "reasoning_effort": effort, **fields}
    )


def calls(content: v1.Delta) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in content.tool_calls]


async def answered(engine: Client, spec: v1.GenerationSpec) -> tuple[v1.GenerateResponse, list[v1.Delta]]:
    """The answer and the deltas of its stream; both ways say the same, but for the ids of calls."""
    whole, folder = await engine.generate(spec), Folder()
    events = await engine.events(spec)
    for event in events:
        folder.add(event)
    streamed = folder.whole()
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens
    assert streamed.usage.reasoning_tokens == whole.usage.reasoning_tokens
    for one, other in zip(streamed.choices, whole.choices, strict=True):
        assert sum(len(event.delta.token_ids) for event in events) == whole.usage.completion_tokens
        for call in (*one.content.tool_calls, *other.content.tool_calls):
            assert call.id
            call.id = ""
        assert one == other
    return whole, [event.delta for event in events if event.HasField("delta")]


async def in_pieces(engine: Client, spec: v1.GenerationSpec, piece: Callable[[v1.Delta], bool]) -> bool:
    """Whether more than one delta of an answer has a `piece`. Where the reader is slow they are merged: a few tries."""
    for _ in range(10):
        _, deltas = await answered(engine, spec)
        if sum(map(piece, deltas)) > 1:
            return True
    return False


async def test_a_call_comes_as_a_call_and_its_arguments_as_they_are_made(engine: Client) -> None:
    answer, _ = await answered(engine, asked(CALL, tools=TOOLS))
    (choice,) = answer.choices
    assert (choice.content.text, calls(choice.content)) == ("Let me see. ", [("weather", CITY)])
    assert choice.finish == v1.ChoiceFinish(reason=v1.FINISH_REASON_TOOL_CALLS)
    assert len(choice.content.token_ids) == choice.content.tokens == len(SCRIPTS[CALL]) + 1
    spec = asked(CALL, tools=TOOLS)
    assert await in_pieces(engine, spec, lambda delta: any(call.arguments for call in delta.tool_calls))


async def test_without_tools_a_call_is_text(engine: Client) -> None:
    none = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE)
    for spec in (asked(CALL), asked(CALL, tools=TOOLS, tool_choice=none)):
        answer, _ = await answered(engine, spec)
        assert answer.choices[0].content.text == "".join(SCRIPTS[CALL])
        assert answer.choices[0].finish.reason == v1.FINISH_REASON_STOP


async def test_a_call_that_is_none_is_text_and_nothing_of_it_is_lost(engine: Client) -> None:
    answer, _ = await answered(engine, asked(BAD, tools=TOOLS))
    assert answer.choices[0].content.text == "".join(SCRIPTS[BAD])
    assert answer.choices[0].finish.reason == v1.FINISH_REASON_STOP


@pytest.mark.parametrize("choice", [REQUIRED, v1.ToolChoice(name="weather")])
async def test_a_call_that_must_be_is_made_by_a_model_that_would_not(
    engine: Client, likely: v1.Sampling, choice: v1.ToolChoice
) -> None:
    assert (await engine.generate(asked(PLAIN, tools=TOOLS))).choices[0].content.text == "It is on its way."
    answer, _ = await answered(engine, asked(PLAIN, tools=TOOLS, tool_choice=choice, sampling=likely))
    assert (answer.choices[0].content.text, calls(answer.choices[0].content)) == ("", [("weather", CITY)])
    assert answer.choices[0].finish.reason == v1.FINISH_REASON_TOOL_CALLS


async def test_a_call_that_must_be_comes_after_the_reasoning(engine: Client, likely: v1.Sampling) -> None:
    answer, _ = await answered(engine, asked(THINK, ON, tools=TOOLS, tool_choice=REQUIRED, sampling=likely))
    content = answer.choices[0].content
    assert (content.reasoning, content.text, calls(content)) == ("Rain, or sun?", "", [("weather", CITY)])


async def test_each_choice_has_its_call(engine: Client) -> None:
    two = v1.Sampling(temperature=0.01, n=2, max_tokens=60)
    answer = await engine.generate(asked(CALL, tools=TOOLS, sampling=two))
    assert [calls(choice.content) for choice in answer.choices] == [[("weather", CITY)]] * 2
    assert {choice.finish.reason for choice in answer.choices} == {v1.FINISH_REASON_TOOL_CALLS}


async def test_a_stop_string_ends_a_call_too(engine: Client) -> None:
    spec, folder = asked(CALL, tools=TOOLS, stop=v1.Stop(strings=["Kö"])), Folder()
    for event in await engine.events(spec):
        folder.add(event)
    (choice,) = folder.whole().choices
    assert choice.finish == v1.ChoiceFinish(reason=v1.FINISH_REASON_TOOL_CALLS, stop_string="Kö")
    assert choice.content.tool_calls[0].arguments == '{"city": "'
    (choice,) = (await engine.generate(spec)).choices  # half a call is no call where nothing of it had to be told early
    assert choice.finish == v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP_SEQUENCE, stop_string="Kö")
    assert choice.content.text == "".join(SCRIPTS[CALL]).partition("Kö")[0]


async def test_reasoning_is_told_and_counted_apart(engine: Client) -> None:
    for effort in (v1.REASONING_EFFORT_UNSPECIFIED, v1.REASONING_EFFORT_LOW, ON):
        answer, _ = await answered(engine, asked(THINK, effort))
        content = answer.choices[0].content
        assert (content.reasoning, content.text) == ("Rain, or sun?", "It will be sunny.")
        assert answer.usage.reasoning_tokens == 3
        assert answer.usage.completion_tokens == len(SCRIPTS[THINK]) + 1
    assert await in_pieces(engine, asked(THINK, ON), lambda delta: bool(delta.reasoning))


async def test_thinking_is_turned_off_in_the_prompt(engine: Client) -> None:
    on, off = (asked(PLAIN, effort) for effort in (ON, OFF))
    answer, _ = await answered(engine, off)
    assert (answer.choices[0].content.reasoning, answer.choices[0].content.text) == ("", "It is on its way.")
    counts = [(await engine.inference.CountTokens(v1.CountTokensRequest(spec=spec))).tokens for spec in (on, off)]
    assert answer.usage.prompt_tokens == counts[1] == counts[0] + 2


async def test_a_constraint_holds_from_where_the_reasoning_ends(engine: Client) -> None:
    constraint = v1.OutputConstraint(choices=v1.Choices(values=["yes", "no"]))
    answer, _ = await answered(engine, asked(THINK, ON, constraint=constraint))
    content = answer.choices[0].content
    assert content.reasoning == "Rain, or sun?"
    assert content.text in ("yes", "no")
    for spec in (asked(PLAIN, constraint=constraint), v1.GenerationSpec(text=v1.TextPrompt(text="a"))):
        spec.constraint.CopyFrom(constraint)
        assert (await engine.generate(spec)).choices[0].content.text in ("yes", "no")


async def test_a_constraint_stands_beside_tools(engine: Client, folder: Path, likely: v1.Sampling) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    constraint = v1.OutputConstraint(json_schema=json.dumps(schema))
    spec = asked(PLAIN, tools=TOOLS[:1], constraint=constraint, sampling=likely)
    content = (await answered(engine, spec))[0].choices[0].content
    assert (content.text, calls(content)) == ("", [("weather", CITY)])
    spec.sampling.logit_bias.clear()
    spec.sampling.logit_bias[json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["{"]] = 8
    content = (await answered(engine, spec))[0].choices[0].content
    assert (json.loads(content.text), calls(content)) == ({"a": 1}, [])


async def test_tools_and_their_results_are_part_of_the_prompt_and_counted(engine: Client) -> None:
    spec = asked("How is it?", tools=TOOLS)
    call, result = v1.ToolCall(id="c", name="weather", arguments=json.dumps(CITY)), v1.ToolResult(tool_call_id="c")
    result.content = PLAIN
    spec.chat.messages.add(role=v1.ROLE_ASSISTANT).parts.add().tool_call.CopyFrom(call)
    spec.chat.messages.add(role=v1.ROLE_TOOL).parts.add().tool_result.CopyFrom(result)
    answer, _ = await answered(engine, spec)
    assert answer.choices[0].content.text == "It is on its way."
    counted = await engine.inference.CountTokens(v1.CountTokensRequest(spec=spec))
    assert counted.tokens == answer.usage.prompt_tokens


async def test_what_is_not_all_text_is_not_continued_by_its_tokens(engine: Client) -> None:
    plain = asked(PLAIN)
    ids = list((await engine.generate(plain)).choices[0].content.token_ids)
    plain.continuation.CopyFrom(v1.Continuation(token_ids=ids[:2], text="It is on its"))
    assert (await engine.generate(plain)).choices[0].content.text == " way."
    thinking = asked(THINK, ON, continuation=v1.Continuation(token_ids=ids[:1]))
    called = asked(CALL, tools=TOOLS, continuation=v1.Continuation(token_ids=ids[:1]))
    for spec, field in ((thinking, "spec.continuation.token_ids"), (called, "spec.tools")):
        with pytest.raises(ConstraintUnsupported) as refusal:
            await engine.generate(spec)
        assert refusal.value.fields[0].field == field


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (v1.GenerationSpec(text=v1.TextPrompt(text="a"), tools=TOOLS), "spec.tools"),
        (v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[5]), tools=TOOLS), "spec.tools"),
        (v1.GenerationSpec(text=v1.TextPrompt(text="a"), reasoning_effort=ON), "spec.reasoning_effort"),
        (asked(PLAIN, tool_choice=REQUIRED), "spec.tool_choice"),
        (asked(PLAIN, tools=[v1.Tool(name="t", parameters_json_schema="[")]), "spec.tools[0].parameters_json_schema"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_field(engine: Client, spec: v1.GenerationSpec, field: str) -> None:
    with pytest.raises(SpillwayError) as refusal:
        await engine.generate(spec)
    assert refusal.value.fields[0].field == field


async def test_openais_client_sees_calls_and_reasoning_through_the_router(engine: Client) -> None:
    capabilities: Any = ["tools", "reasoning_effort"]
    target = TargetSettings(kind="local", name="local", address=engine.remote.address, capabilities=capabilities)
    settings = RouterSettings(server=LOOPBACK, http=HttpSettings(listen="127.0.0.1:0"), targets=(target,))
    async with build_router(settings) as router:
        assert router.http is not None
        async with AsyncOpenAI(api_key="none", base_url=f"http://{router.http.address}/v1", max_retries=0) as client:
            tool: Any = {"type": "function", "function": {"name": "weather", "parameters": json.loads(SCHEMA)}}
            call: dict[str, Any] = {"model": "local", "temperature": 0, "max_tokens": 60}
            call |= {"tools": [tool], "reasoning_effort": "none", "messages": [{"role": "user", "content": CALL}]}
            choice = (await client.chat.completions.create(**call)).choices[0]
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see. ")
            (made,) = choice.message.tool_calls
            assert (made.function.name, json.loads(made.function.arguments)) == ("weather", CITY)
            pieces = [chunk.choices[0] async for chunk in await client.chat.completions.create(stream=True, **call)]
            told = [piece.delta.tool_calls[0] for piece in pieces if piece.delta.tool_calls]
            assert json.loads("".join(one.function.arguments or "" for one in told)) == CITY
            assert [one.id for one in told if one.id] == [told[0].id]
            assert pieces[-1].finish_reason == "tool_calls"
            answer = choice.message.model_dump(exclude_none=True)
            result = {"role": "tool", "tool_call_id": made.id, "content": PLAIN}
            messages = [*call["messages"], answer, result]
            last = await client.chat.completions.create(**{**call, "messages": messages})
            assert last.choices[0].message.content == "It is on its way."
            think: dict[str, Any] = {**call, "reasoning_effort": "high", "tools": [tool]}
            think["messages"] = [{"role": "user", "content": THINK}]
            whole = (await client.chat.completions.create(**think)).choices[0].message
            assert (whole.model_extra or {})["reasoning_content"] == "Rain, or sun?"
            assert whole.content == "It will be sunny."
            chunks = [chunk.choices[0] async for chunk in await client.chat.completions.create(stream=True, **think)]
            reasoning = "".join((chunk.delta.model_extra or {}).get("reasoning_content", "") for chunk in chunks)
            assert reasoning == "Rain, or sun?"
