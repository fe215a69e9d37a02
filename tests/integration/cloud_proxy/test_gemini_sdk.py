"""Google's own client sees what our adapter sees, of the simulator and of the recordings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types

from services.cloud_proxy.wires.gemini import Gemini
from spillway import v1
from spillway.testing import openai_faults as faults
from spillway.testing.gemini_simulator import GeminiSimulator, serving_gemini
from spillway.testing.gemini_wire import camel
from spillway.testing.openai_faults import Faults, HttpFault, Status
from spillway.testing.openai_wire import Called
from tests.integration.cloud_proxy.cassettes import Player, Row, answered, playing, rows
from tests.integration.cloud_proxy.rig import spec

MODEL = "gemini-3-flash-preview"
CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
LOOK = types.FunctionDeclaration(name="look", parameters_json_schema=CITY)
FINISHES = {
    types.FinishReason.STOP: (v1.FINISH_REASON_STOP, v1.FINISH_REASON_TOOL_CALLS),
    types.FinishReason.MAX_TOKENS: (v1.FINISH_REASON_LENGTH,),
}


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    """Google's client of the server at `url`, asynchronous. Over httpx: its way over aiohttp warns of itself."""
    base_url, _, version = url.rpartition("/")
    async with httpx.AsyncClient() as http:
        options = types.HttpOptions(base_url=base_url, api_version=version, httpx_async_client=http)
        with genai.Client(api_key="AIza-x", vertexai=False, http_options=options) as found:
            yield found.aio


@asynccontextmanager
async def both(simulator: GeminiSimulator) -> AsyncIterator[tuple[Player, Any]]:
    """Our adapter and Google's client before one simulator."""
    row = {"status": 200, "response": {"headers": {}, "body": ""}}
    async with (
        serving_gemini(simulator) as url,
        playing(row, Gemini, "gemini", base_url=url) as player,
        client(url) as theirs,
    ):
        yield player, theirs


class Told:
    """What Google's client makes of one choice: text, thoughts, calls, finish; and the usage."""

    def __init__(self, responses: list[types.GenerateContentResponse], index: int = 0) -> None:
        candidates = [one for response in responses for one in response.candidates or [] if (one.index or 0) == index]
        parts = [part for one in candidates if one.content for part in one.content.parts or []]
        self.text = "".join(part.text or "" for part in parts if not part.thought)
        self.reasoning = "".join(part.text or "" for part in parts if part.thought)
        self.calls = [part.function_call for part in parts if part.function_call]
        self.finish = [one.finish_reason for one in candidates if one.finish_reason][-1]
        self.usage = [response.usage_metadata for response in responses if response.usage_metadata][-1]

    def require_same(self, ours: v1.Delta, finish: v1.ChoiceFinish, usage: v1.Usage | None) -> None:
        assert (ours.text, ours.reasoning) == (self.text, self.reasoning)
        assert [(call.name, json.loads(call.arguments)) for call in ours.tool_calls] == [
            (call.name, call.args) for call in self.calls
        ]
        assert all(call.id in (None, made.id) for call, made in zip(self.calls, ours.tool_calls, strict=True))
        assert finish.reason in FINISHES[self.finish]
        assert usage is not None
        theirs = self.usage
        assert usage.prompt_tokens == theirs.prompt_token_count
        assert usage.completion_tokens == (theirs.candidates_token_count or 0) + (theirs.thoughts_token_count or 0)
        assert usage.cached_prompt_tokens == (theirs.cached_content_token_count or 0)
        assert usage.reasoning_tokens == (theirs.thoughts_token_count or 0)


ASKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("text", {}, {}),
    ("two choices", {"sampling": v1.Sampling(n=2)}, {"candidate_count": 2}),
    ("cut", {"sampling": v1.Sampling(max_tokens=2)}, {"max_output_tokens": 2}),
    (
        "a tool",
        {
            "tools": [v1.Tool(name="look", parameters_json_schema=json.dumps(CITY))],
            "tool_choice": v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED),
        },
        {
            "tools": [types.Tool(function_declarations=[LOOK])],
            "tool_config": {"function_calling_config": {"mode": "ANY"}},
            "automatic_function_calling": {"disable": True},
        },
    ),
    (
        "JSON",
        {"constraint": v1.OutputConstraint(json_schema=json.dumps(CITY))},
        {"response_mime_type": "application/json", "response_json_schema": CITY},
    ),
    (
        "a choice",
        {"constraint": v1.OutputConstraint(choices=v1.Choices(values=["yes", "no"]))},
        {"response_mime_type": "text/x.enum", "response_schema": {"type": "STRING", "enum": ["yes", "no"]}},
    ),
    (
        "thoughts",
        {"reasoning_effort": v1.REASONING_EFFORT_LOW},
        {"thinking_config": {"thinking_level": "LOW", "include_thoughts": True}},
    ),
    (
        "sampling",
        {"sampling": v1.Sampling(temperature=0.7, top_p=0.5, top_k=3, seed=7), "stop": v1.Stop(strings=["x"])},
        {"temperature": 0.7, "top_p": 0.5, "top_k": 3, "seed": 7, "stop_sequences": ["x"]},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), [pytest.param(*told, id=name) for name, *told in ASKED])
async def test_the_sdk_and_our_adapter_ask_and_read_the_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    simulator = GeminiSimulator(cached_tokens=1, reasoning_tokens=3)
    async with both(simulator) as (player, google):
        played = await player.play(asked=spec(**ours), model=MODEL)
        config = types.GenerateContentConfig(**theirs)
        asked: Any = {"model": MODEL, "contents": "hello there", "config": config}
        streamed = [one async for one in await google.models.generate_content_stream(**asked)]
        whole = await google.models.generate_content(**asked)
    mine, *others = (camel(seen.body) for seen in simulator.seen)
    assert others == [{"generationConfig": {}, **mine}] * 2
    for choice, finish in zip(played.choices, played.exchange.finishes, strict=True):
        for told in (Told(streamed, choice.choice), Told([whole], choice.choice)):
            told.require_same(choice, finish, played.exchange.usage)
    assert played.exchange.model == whole.model_version == f"{MODEL}-simulated"


async def test_the_sdk_and_our_adapter_give_the_same_signatures_back() -> None:
    simulator = GeminiSimulator(calls=lambda body: [Called("look", "{}")] if len(body["contents"]) == 1 else [])
    async with both(simulator) as (player, google):
        (made,) = (await player.play(model=MODEL)).choices
        parts = [v1.Part(provider_state=made.provider_state)]
        (call,) = made.tool_calls
        parts.append(v1.Part(tool_call=v1.ToolCall(id=call.id, name=call.name, arguments=call.arguments)))
        found = v1.Part(tool_result=v1.ToolResult(tool_call_id=call.id, content="rain"))
        chat = spec().chat
        chat.messages.add(role=v1.ROLE_ASSISTANT, parts=parts)
        chat.messages.add(role=v1.ROLE_TOOL, parts=[found])
        await player.play(asked=spec(chat=chat), model=MODEL)
        talk = google.chats.create(model=MODEL)
        answer = await talk.send_message("hello there")
        back = types.FunctionResponse(id=answer.function_calls[0].id, name="look", response={"output": "rain"})
        await talk.send_message(types.Part(function_response=back))
    assert simulator.seen[1].body["contents"][1:] == simulator.seen[3].body["contents"][1:]


@pytest.mark.parametrize("row", rows(answered("generativelanguage.googleapis.com")))
async def test_the_sdk_and_our_adapter_read_a_recording_the_same(row: Row) -> None:
    async with (
        playing(row, Gemini, "gemini") as player,
        client(f"http://127.0.0.1:{player.cassette.port}/v1beta") as google,
    ):
        played = await player.play()
        if "streamGenerateContent" in row["request"]["url"]:
            responses = [one async for one in await google.models.generate_content_stream(model="m", contents="x")]
        else:
            responses = [await google.models.generate_content(model="m", contents="x")]
    Told(responses).require_same(played.choices[0], played.exchange.finishes[0], played.exchange.usage)


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (faults.rate_limited(17), 429, "RESOURCE_EXHAUSTED"),
        (faults.context_length_exceeded(), 400, "INVALID_ARGUMENT"),
        (Status(403), 403, "PERMISSION_DENIED"),
        (Status(404), 404, "NOT_FOUND"),
        (faults.overloaded(), 503, "UNAVAILABLE"),
        (faults.ErrorInStream(after=1, code=503), 503, "UNAVAILABLE"),
    ],
)
async def test_the_sdk_understands_the_simulators_errors(fault: HttpFault, code: int, status: str) -> None:
    async with serving_gemini(GeminiSimulator(faults=Faults(fault))) as url, client(url) as google:
        with pytest.raises(errors.APIError) as caught:
            async for _ in await google.models.generate_content_stream(model=MODEL, contents="x"):
                pass
    assert (caught.value.code, caught.value.status) == (code, status)


async def test_the_sdk_lists_and_embeds_with_the_simulator() -> None:
    async with serving_gemini(GeminiSimulator(models=("a", "b"))) as url, client(url) as google:
        assert [model.name async for model in await google.models.list()] == ["models/a", "models/b"]
        found = await google.models.embed_content(
            model="a", contents=["one", "two"], config=types.EmbedContentConfig(output_dimensionality=4)
        )
    assert [len(one.values) for one in found.embeddings] == [4, 4]
