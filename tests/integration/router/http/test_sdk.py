"""OpenAI's own client, unmodified, against the edge."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from services.router.policy_settings import PolicySettings
from spillway import v1
from spillway.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    ProviderRateLimited,
    RequestInvalid,
    SpillwayError,
    StreamInterrupted,
    TargetDown,
)
from spillway.testing.faults import Cut, Refuse, Script, Stall
from spillway.testing.waiting import eventually
from tests.integration.router.http.rig import MESSAGES, running_edge
from tests.integration.router.mesh import CAPABILITIES, Mesh

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


async def test_a_chat_is_answered_and_names_the_model_that_answered(mesh: Mesh, client: AsyncOpenAI) -> None:
    told = await client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
    answer = told.parse()
    assert answer.choices[0].message.content == "one two three four five"
    assert (answer.model, answer.object, answer.choices[0].finish_reason) == ("small", "chat.completion", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 5, 7)
    assert answer.usage.completion_tokens_details is None  # unknown is not zero
    assert told.headers["x-spillway-target"] == "local"
    assert told.headers["x-spillway-model"] == "small"
    assert told.headers["x-spillway-route-reason"] == "local first"
    assert answer.id == f"chatcmpl-{told.headers['x-request-id']}"


async def test_a_stream_says_the_same_with_usage_where_it_is_asked_for(mesh: Mesh, client: AsyncOpenAI) -> None:
    text, finishes, usages = "", [], []
    async with await client.chat.completions.create(
        model="auto", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        async for chunk in stream:
            assert chunk.model == "small"
            usages.append(chunk.usage)
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finishes.append(choice.finish_reason)
    assert text == "one two three four five"
    assert finishes[-1] == "stop"
    assert not any(finishes[:-1])
    assert not any(usages[:-1])
    assert usages[-1] is not None
    assert usages[-1].completion_tokens == 5
    assert mesh.outcomes() == ["local:answered"]


async def test_usage_is_not_told_where_it_was_not_asked_for(client: AsyncOpenAI) -> None:
    async with await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True) as stream:
        chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"


async def test_completions_take_text(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="auto", prompt="once upon", max_tokens=2)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two", "length")
    async with await client.completions.create(model="auto", prompt="once upon", stream=True) as stream:
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "one two three four five"


async def test_a_suffix_goes_only_to_targets_that_fill_in_the_middle(mesh: Mesh, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="auto", prompt="def f(", suffix="return x")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "suffix")
    async with running_edge(capabilities=[*CAPABILITIES, "suffix"]) as (able, its_client):
        await its_client.completions.create(model="auto", prompt="def f(", suffix="return x")
        assert able.local.seen[0].request.spec.text.suffix == "return x"


async def test_completions_take_token_ids() -> None:
    async with running_edge(capabilities=[*CAPABILITIES, "token_input"]) as (mesh, client):
        await client.completions.create(model="auto", prompt=[1, 2, 3])
        assert list(mesh.local.seen[0].request.spec.tokens.ids) == [1, 2, 3]


async def test_a_json_schema_is_held_to_in_answers_and_in_streams(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.answer = mesh.cloud.answer = lambda spec: '{"name": "Ada"}'
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = await client.chat.completions.create(model="auto", messages=MESSAGES, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"name": "Ada"}
    async with await client.chat.completions.create(
        model="auto", messages=MESSAGES, response_format=wanted, stream=True
    ) as stream:
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert json.loads(text) == {"name": "Ada"}
    assert len(mesh.judged) == 2  # a stream too is judged before its first byte
    assert json.loads(mesh.local.seen[0].request.spec.constraint.json_schema) == SCHEMA


async def test_models_are_listed_and_found_by_name(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["auto", "local", "openai/big", "cloud"]
    assert (await client.models.retrieve("openai/big")).owned_by == "cloud"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


async def test_a_model_is_asked_for_by_name(mesh: Mesh, client: AsyncOpenAI) -> None:
    assert (await client.chat.completions.create(model="openai/big", messages=MESSAGES)).model == "openai/big"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-nothing", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", None)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (RequestInvalid("spec.stop: bad"), openai.BadRequestError, "invalid_value"),
        (ContextLengthExceeded("too long"), openai.BadRequestError, "context_length_exceeded"),
        (ContentFiltered("refused"), openai.BadRequestError, "content_filter"),
        (TargetDown("gone"), openai.InternalServerError, "all_targets_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_error_is_the_one_that_the_client_has_a_type_for(
    mesh: Mesh,
    client: AsyncOpenAI,
    error: SpillwayError,
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    mesh.local.faults = mesh.cloud.faults = Script(always=Refuse(error))
    with pytest.raises(kind) as caught:
        await client.chat.completions.create(model="auto", messages=MESSAGES, stream=stream)
    assert caught.value.code == code
    assert caught.value.response.headers["x-request-id"]


async def test_a_limit_everywhere_is_a_rate_limit_and_says_when_to_come_back(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.faults = mesh.cloud.faults = Script(always=Refuse(ProviderRateLimited("slow down", retry_after_s=7)))
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="auto", messages=MESSAGES)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-should-retry"] == "true"
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="auto", messages=MESSAGES)


async def test_a_client_that_retries_by_itself_does_not_where_it_would_not_help(
    mesh: Mesh, client: AsyncOpenAI
) -> None:
    mesh.local.faults = Script(always=Refuse(StreamInterrupted("cut")))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.with_options(max_retries=2).chat.completions.create(model="auto", messages=MESSAGES)
    assert caught.value.code == "stream_interrupted"
    assert len(mesh.local.seen) == 1


async def test_what_the_caller_did_wrong_is_named_as_openai_names_it(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="auto", messages=MESSAGES, temperature=9)
    assert caught.value.param == "temperature"
    assert "spec" not in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="auto", messages=MESSAGES, extra_body={"beam_width": 5})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "beam_width")


async def test_hints_reach_the_policy_and_a_bad_one_is_named(mesh: Mesh, client: AsyncOpenAI) -> None:
    told = await client.chat.completions.with_raw_response.create(
        model="auto", messages=MESSAGES, extra_headers={"x-spillway-denied-targets": "local"}
    )
    assert told.headers["x-spillway-target"] == "cloud"
    for name, value in (("x-spillway-category", "rotuine"), ("x-spillway-residancy", "local_only")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="auto", messages=MESSAGES, extra_headers={name: value})
        assert caught.value.param == name


async def test_a_local_only_hint_keeps_the_prompt_on_the_site(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(
            model="auto", messages=MESSAGES, extra_headers={"x-spillway-residency": "local_only"}
        )
    assert mesh.cloud.seen == []


@pytest.mark.parametrize("by", ["policy", "caller"])
async def test_a_cut_within_the_probe_is_replaced_silently(by: str) -> None:
    policy = PolicySettings(delivery="probed" if by == "policy" else None)
    headers = {"x-spillway-delivery": "probed"} if by == "caller" else None
    async with running_edge(policy=policy) as (mesh, client):
        mesh.local.faults = Script(always=Cut(2))
        async with await client.chat.completions.create(
            model="auto", messages=MESSAGES, stream=True, extra_headers=headers
        ) as stream:
            chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "from the cloud"
    assert {chunk.model for chunk in chunks} == {"openai/big"}


async def test_a_stream_that_asks_for_nothing_else_begins_with_its_first_token(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.faults = Script(Stall(1))
    async with await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True) as stream:
        chunk = await anext(aiter(stream))
        assert (chunk.choices[0].delta.content, mesh.local.running) == ("one", 1)


async def test_a_stream_is_whole_where_the_policy_says_so() -> None:
    async with running_edge(policy=PolicySettings(delivery="committed")) as (mesh, client):
        mesh.local.faults = Script(always=Cut(4))
        async with await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True) as stream:
            texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert texts == ["from the cloud", None]


async def test_a_stream_that_has_sent_text_and_is_cut_ends_with_an_error(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.faults = Script(Cut(3))
    text = ""
    async with await client.chat.completions.create(
        model="auto", messages=MESSAGES, stream=True, extra_headers={"x-spillway-delivery": "live"}
    ) as stream:
        with pytest.raises(openai.APIError) as caught:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
    assert (text, caught.value.code) == ("one two three", "stream_interrupted")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_caller_that_hangs_up_ends_the_targets_work(mesh: Mesh, client: AsyncOpenAI, stream: bool) -> None:
    mesh.local.answer = lambda spec: "word " * 1000
    mesh.local.interval_s = 0.05
    if stream:
        async with await client.chat.completions.create(
            model="auto", messages=MESSAGES, stream=True, extra_headers={"x-spillway-delivery": "live"}
        ) as chunks:
            assert (await anext(aiter(chunks))).choices
            assert mesh.local.running == 1
    else:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model="auto", messages=MESSAGES, timeout=0.3)
    await eventually(lambda: mesh.local.cancelled == 1 and not mesh.local.running)
    assert mesh.outcomes() == ["local:cancelled"]


async def test_the_deadline_of_the_header_holds(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.first_s = 60
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="auto", messages=MESSAGES, stream=stream, extra_headers={"x-spillway-deadline-ms": "200"}
            )
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    await eventually(lambda: not mesh.local.running and not mesh.cloud.running)


async def test_a_deadline_that_passes_within_a_stream_ends_it_with_an_error(mesh: Mesh, client: AsyncOpenAI) -> None:
    mesh.local.faults = Script(Stall(1))
    text = ""
    async with await client.chat.completions.create(
        model="auto",
        messages=MESSAGES,
        stream=True,
        extra_headers={"x-spillway-deadline-ms": "500", "x-spillway-delivery": "live"},
    ) as stream:
        with pytest.raises(openai.APIError) as caught:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
    assert (text, caught.value.code) == ("one", "deadline_exceeded")
    await eventually(lambda: not mesh.local.running)


async def test_a_conversation_with_tools_reaches_the_target_whole() -> None:
    async with running_edge(capabilities=[*CAPABILITIES, "tools", "images"]) as (mesh, client):
        await client.chat.completions.create(
            model="auto",
            messages=[
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                    ],
                },
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            ],
            tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
            tool_choice={"type": "function", "function": {"name": "look"}},
        )
        spec = mesh.local.seen[0].request.spec
    system, user, assistant, tool = spec.chat.messages
    assert (system.role, user.parts[1].image.data) == (v1.ROLE_SYSTEM, b"\x89PNG")
    assert assistant.parts[0].tool_call == v1.ToolCall(id="c1", name="look", arguments='{"at": 1}')
    assert tool.parts[0].tool_result == v1.ToolResult(tool_call_id="c1", content="a cat")
    assert (spec.tools[0].name, spec.tool_choice.name) == ("look", "look")
