"""Gemini through the whole cloud proxy, over gRPC and real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from spillway import errors, v1
from spillway.errors import ConstraintUnsupported, RequestInvalid, SpillwayError
from spillway.testing import openai_faults as faults
from spillway.testing.gemini_simulator import GeminiSimulator, serving_gemini
from spillway.testing.openai_faults import Cut, ErrorInStream, Faults, HttpFault, Malformed, Page, Reset, Stall, Status
from spillway.testing.openai_simulator import OpenAISimulator
from spillway.testing.openai_wire import Called
from spillway.testing.vectors import vector
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.integration.cloud_proxy.rig import STAMP, Rig, call, running, spec

MODEL = "gemini/gemini-3-flash-preview"
OLDER = "gemini/gemini-2.5-flash"
EMBEDDER = "gemini/gemini-embedding-001"
MODELS = [
    {"name": "gemini-3-flash-preview", "capabilities": ["tools", "prefill", "json_schema"]},
    {"name": "gemini-2.5-flash", "capabilities": ["tools", "reasoning_effort"]},
    {"name": "gemini-embedding-001", "capabilities": ["embeddings", "token_input"]},
]
CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
LOOK = v1.Tool(name="look", description="Looks.", parameters_json_schema=json.dumps(CITY))
WORDS = "Simulated cloud answer to: hello there"


@asynccontextmanager
async def gemini(simulator: GeminiSimulator, valkey: str, **more: Any) -> AsyncIterator[Rig]:
    """A cloud proxy before `simulator`."""
    told = {"name": "gemini", "kind": "gemini", "models": MODELS, "price_list": "google", "prefill": "plain", **more}
    async with serving_gemini(simulator) as url, running(OpenAISimulator(), valkey, url=url, **told) as rig:
        yield rig


def ask(text: str = "hello there", **more: Any) -> v1.GenerationSpec:
    return spec(text, **{"model": MODEL, **more})


def said(role: v1.Role.ValueType, *parts: v1.Part) -> v1.Message:
    return v1.Message(role=role, parts=parts)


def back(answer: v1.GenerateResponse) -> v1.Message:
    """An answer as the message that it becomes when the conversation goes on."""
    content = answer.choices[0].content
    parts = [v1.Part(provider_state=content.provider_state)] if content.HasField("provider_state") else []
    parts += [v1.Part(text=content.text)] if content.text else []
    for made in content.tool_calls:
        parts.append(v1.Part(tool_call=v1.ToolCall(id=made.id, name=made.name, arguments=made.arguments)))
    return said(v1.ROLE_ASSISTANT, *parts)


def results(answer: v1.GenerateResponse) -> list[v1.Message]:
    """What the tools that an answer calls have found."""
    return [
        said(
            v1.ROLE_TOOL,
            v1.Part(tool_result=v1.ToolResult(tool_call_id=made.id, content=f"rain {at}", is_error=at > 0)),
        )
        for at, made in enumerate(answer.choices[0].content.tool_calls)
    ]


async def test_an_answer_is_streamed_with_usage_cost_and_its_model(valkey: str) -> None:
    simulator = GeminiSimulator(key="AIza-right", cached_tokens=1, reasoning_tokens=4)
    async with gemini(simulator, valkey, key_env="KEY", environ={"KEY": "AIza-right"}) as rig:
        streamed = await rig.stream(ask(model=OLDER))
        whole = await rig.generate(ask(model=OLDER))
    assert streamed.choices == whole.choices
    assert (streamed.choices[0].content.text, streamed.choices[0].finish.reason) == (WORDS, v1.FINISH_REASON_STOP)
    assert (streamed.started.target, streamed.started.model) == (OLDER, "gemini-2.5-flash-simulated")
    usage = streamed.usage
    counts = (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    assert counts == (2, 1, 10, 4)
    assert usage.cost_nano_usd == 1 * 300 + 1 * 30 + 10 * 2500  # 0.30, 0.03 and 2.50 USD per million tokens
    asked = simulator.seen[0]
    assert (asked.path, asked.key_sent) == ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", True)
    assert asked.body == {"contents": [{"role": "user", "parts": [{"text": "hello there"}]}]}


@pytest.mark.parametrize("knows_sse", [True, False], ids=["events", "a list"])
async def test_an_answer_is_the_same_from_a_server_that_does_not_stream(valkey: str, knows_sse: bool) -> None:
    async with gemini(GeminiSimulator(knows_sse=knows_sse), valkey) as rig:
        answer = await rig.stream(ask())
    assert (answer.choices[0].content.text, answer.usage.completion_tokens) == (WORDS, 6)
    assert answer.choices[0].content.HasField("provider_state")


async def test_a_conversation_with_tools_goes_on_with_its_signatures(valkey: str) -> None:
    """The simulator refuses a call that comes back unsigned, signed by another model, or not answered one to one."""
    calls = [Called("look", '{"city":"Oslo"}'), Called("look", '{"city":"Bergen"}')]
    simulator = GeminiSimulator(calls=lambda body: calls if len(body["contents"]) == 1 else [])
    chat = [said(v1.ROLE_SYSTEM, v1.Part(text="be brief")), said(v1.ROLE_USER, v1.Part(text="hello there"))]
    async with gemini(simulator, valkey) as rig:
        called = await rig.stream(ask(chat=v1.Chat(messages=chat), tools=[LOOK]))
        chat += [back(called), *results(called)]
        told = await rig.stream(ask(chat=v1.Chat(messages=chat), tools=[LOOK]))
        chat += [back(told), said(v1.ROLE_USER, v1.Part(text="and tomorrow?"))]
        again = await rig.stream(ask(chat=v1.Chat(messages=chat), tools=[LOOK]))
    made = called.choices[0].content.tool_calls
    assert [(one.index, one.id, one.arguments) for one in made] == [
        (0, "simulated-0-0", '{"city":"Oslo"}'),
        (1, "simulated-0-1", '{"city":"Bergen"}'),
    ]
    assert called.choices[0].finish.reason == v1.FINISH_REASON_TOOL_CALLS
    assert (told.choices[0].content.text, again.choices[0].content.text) == (
        WORDS,
        WORDS.replace("hello there", "and tomorrow?"),
    )
    body = simulator.seen[-1].body
    assert body["systemInstruction"] == {"parts": [{"text": "be brief"}]}
    _, model, answers, end, _ = body["contents"]
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user", "model", "user"]
    assert ["thoughtSignature" in part for part in model["parts"]] == [True, False]
    assert [part["functionResponse"] for part in answers["parts"]] == [
        {"id": "simulated-0-0", "name": "look", "response": {"output": "rain 0"}},
        {"id": "simulated-0-1", "name": "look", "response": {"error": "rain 1"}},
    ]
    assert end["parts"][0] == {"text": WORDS}
    assert end["parts"][1].keys() == {"text", "thoughtSignature"}


@pytest.mark.parametrize("lost", ["state", "model"])
async def test_calls_of_another_model_are_taken_over_without_their_signatures(valkey: str, lost: str) -> None:
    simulator = GeminiSimulator(calls=lambda body: [Called("look", "{}")] if len(body["contents"]) == 1 else [])
    models = [*MODELS, {"name": "gemini-3-pro-preview"}]
    async with gemini(simulator, valkey, models=models) as rig:
        called = await rig.stream(ask(tools=[LOOK]))
        if lost == "state":
            called.choices[0].content.provider_state.wire = "anthropic"
        chat = v1.Chat(messages=[said(v1.ROLE_USER, v1.Part(text="hello there")), back(called), *results(called)])
        model = MODEL if lost == "state" else "gemini/gemini-3-pro-preview"
        told = await rig.stream(ask(chat=chat, tools=[LOOK], model=model))
    assert told.choices[0].content.text == WORDS


async def test_calls_without_ids_have_ids_of_ours_that_are_not_sent_back(valkey: str) -> None:
    simulator = GeminiSimulator(
        signs=False, calls=lambda body: [Called("look", "{}")] * 2 if len(body["contents"]) == 1 else []
    )
    async with gemini(simulator, valkey) as rig:
        called = await rig.stream(ask(model=OLDER, tools=[LOOK]))
        chat = v1.Chat(messages=[said(v1.ROLE_USER, v1.Part(text="hello there")), back(called), *results(called)])
        told = await rig.stream(ask(model=OLDER, chat=chat, tools=[LOOK]))
    assert [one.id for one in called.choices[0].content.tool_calls] == [
        "call_gemini_simulated1_0_0",
        "call_gemini_simulated1_0_1",
    ]
    assert told.choices[0].content.text == WORDS
    parts = [part for content in simulator.seen[-1].body["contents"][1:] for part in content["parts"]]
    assert all("id" not in next(iter(part.values())) for part in parts)


async def test_tools_schemas_choices_logprobs_and_choices_pass_through(valkey: str) -> None:
    async with gemini(GeminiSimulator(), valkey) as rig:
        called = await rig.stream(ask(tools=[LOOK], tool_choice=v1.ToolChoice(name="look")))
        held = await rig.stream(ask(constraint=v1.OutputConstraint(json_schema=json.dumps(CITY))))
        free = await rig.stream(ask(constraint=v1.OutputConstraint(json_object=True)))
        one = await rig.stream(ask(constraint=v1.OutputConstraint(choices=v1.Choices(values=["yes", "no"]))))
        many = await rig.stream(ask(sampling=v1.Sampling(n=2), logprobs=v1.Logprobs(top=2)))
        cut = await rig.stream(ask(sampling=v1.Sampling(max_tokens=2, temperature=0.7)))
        stopped = await rig.stream(ask(stop=v1.Stop(strings=[" to:"])))
    assert json.loads(called.choices[0].content.tool_calls[0].arguments) == {"city": "Oslo"}
    assert json.loads(held.choices[0].content.text) == {"city": "Oslo"}
    assert json.loads(free.choices[0].content.text) == {"simulated": WORDS}
    assert one.choices[0].content.text == "yes"
    assert [choice.content.text for choice in many.choices] == [WORDS, f"{WORDS} (2)"]
    for choice in many.choices:
        assert "".join(told.token for told in choice.content.logprobs) == choice.content.text
        assert [(top.token_id, top.logprob) for top in choice.content.logprobs[0].top] == [(1, -0.5), (2, -1.5)]
    assert (cut.choices[0].content.text, cut.choices[0].finish.reason) == ("Simulated cloud", v1.FINISH_REASON_LENGTH)
    assert stopped.choices[0].content.text == "Simulated cloud answer"


async def test_images_go_as_bytes_or_by_reference(valkey: str) -> None:
    simulator = GeminiSimulator()
    images = [
        v1.Image(data=b"\x89PNG", mime_type="image/png"),
        v1.Image(url="data:image/gif;base64,R0lG"),
        v1.Image(url="https://example.com/cat.jpg?size=2"),
        v1.Image(url="https://generativelanguage.googleapis.com/v1beta/files/abc"),
    ]
    chat = v1.Chat(messages=[said(v1.ROLE_USER, *(v1.Part(image=image) for image in images))])
    async with gemini(simulator, valkey) as rig:
        await rig.stream(ask(chat=chat))
        for image, error in (
            (v1.Image(url="http://example.com/cat.jpg"), ConstraintUnsupported),
            (v1.Image(url="https://example.com/cat"), RequestInvalid),
        ):
            with pytest.raises(error, match=r"spec\.chat\.messages\[0\]\.parts\[0\]\.image"):
                await rig.stream(ask(chat=v1.Chat(messages=[said(v1.ROLE_USER, v1.Part(image=image))])))
    assert simulator.seen[0].body["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
        {"inlineData": {"mimeType": "image/gif", "data": "R0lG"}},
        {"fileData": {"fileUri": "https://example.com/cat.jpg?size=2", "mimeType": "image/jpeg"}},
        {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
    ]


async def test_thoughts_are_shown_to_who_asks_for_an_effort(valkey: str) -> None:
    simulator = GeminiSimulator(reasoning_tokens=3)
    async with gemini(simulator, valkey) as rig:
        new = await rig.stream(ask(reasoning_effort=v1.REASONING_EFFORT_LOW))
        old = await rig.stream(ask(model=OLDER, reasoning_effort=v1.REASONING_EFFORT_HIGH))
        none = await rig.stream(ask(model=OLDER, reasoning_effort=v1.REASONING_EFFORT_NONE))
        with pytest.raises(ConstraintUnsupported, match=r"spec\.reasoning_effort"):
            await rig.stream(ask(reasoning_effort=v1.REASONING_EFFORT_NONE))
    assert [answer.choices[0].content.reasoning for answer in (new, old, none)] == ["Simulated thoughts."] * 2 + [""]
    assert {answer.choices[0].content.text for answer in (new, old, none)} == {WORDS}
    assert [seen.body["generationConfig"]["thinkingConfig"] for seen in simulator.seen] == [
        {"thinkingLevel": "LOW", "includeThoughts": True},
        {"thinkingBudget": 24576, "includeThoughts": True},
        {"thinkingBudget": 0},
    ]


async def test_an_answer_that_another_began_goes_on_where_the_provider_takes_it(valkey: str) -> None:
    begun = ask(continuation=v1.Continuation(text="Simulated cloud"))
    async with gemini(GeminiSimulator(), valkey) as rig, gemini(GeminiSimulator(takes_prefill=False), valkey) as newer:
        assert (await rig.stream(begun)).choices[0].content.text == " answer to: hello there"
        with pytest.raises(RequestInvalid):
            await newer.stream(begun)
    models = [{"name": "gemini-3-flash-preview"}]
    async with gemini(GeminiSimulator(), valkey, prefill=None, models=models) as rig:
        with pytest.raises(ConstraintUnsupported, match=r"spec\.continuation\.text"):
            await rig.stream(begun)


async def embed(rig: Rig, *texts: str, **fields: Any) -> v1.EmbedResponse:
    asked = v1.EmbeddingSpec(**{"model": EMBEDDER, "inputs": [v1.EmbeddingInput(text=one) for one in texts], **fields})
    stub = inference_pb2_grpc.InferenceServiceStub(rig.remote.channel)
    return await rig.remote.unary(stub.Embed, v1.EmbedRequest(spec=asked, stamp=STAMP), call(), span_name="test")


async def test_embeddings_come_in_order_with_what_they_took(valkey: str) -> None:
    simulator = GeminiSimulator(faults=Faults(None, faults.MissingFinish(1)))
    async with gemini(simulator, valkey) as rig:
        found = await embed(rig, "two words", "one", dimensions=4, extra={"taskType": "RETRIEVAL_QUERY"})
        with pytest.raises(errors.ProviderError):
            await embed(rig, "a vector", "too few")
        tokens = v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=[1]))
        with pytest.raises(ConstraintUnsupported, match=r"spec\.inputs\[0\]\.tokens"):
            await embed(rig, inputs=[tokens])
    assert [list(one.values) for one in found.embeddings] == [
        pytest.approx(vector("gemini-embedding-001", text, 4), abs=1e-6) for text in ("two words", "one")
    ]
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 0)
    assert simulator.seen[0].body["requests"][1] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "one"}]},
        "outputDimensionality": 4,
        "taskType": "RETRIEVAL_QUERY",
    }


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.context_length_exceeded(), errors.ContextLengthExceeded),
        (faults.content_policy_violation(), errors.ContentFiltered),
        (faults.out_of_credit(), errors.ProviderOutOfCredit),
        (faults.rate_limited(0.01), errors.ProviderRateLimited),
        (faults.overloaded(), errors.ProviderError),
        (Status(400, "API_KEY_INVALID"), errors.ProviderAuthFailed),
        (Status(403), errors.ProviderAuthFailed),
        (Status(404), errors.TargetModelMissing),
        (Status(400, param="contents"), errors.RequestInvalid),
        (Status(500), errors.ProviderError),
        (Status(504), errors.TargetTimeout),
        (Page(), errors.ProviderError),
        (Reset(), errors.TargetDown),
        (Cut(after=2), errors.TargetDown),
        (Stall(after=2), errors.TargetTimeout),
        (Malformed(after=2), errors.ProviderError),
        (ErrorInStream(after=2, code=503), errors.ProviderError),
        (ErrorInStream(after=0, code=429), errors.ProviderRateLimited),
        (faults.MissingFinish(after=2), errors.ProviderError),
        (faults.Filtered(after=0), errors.ContentFiltered),
    ],
)
async def test_a_failure_has_its_reason_and_the_next_request_is_answered(
    valkey: str, fault: HttpFault, kind: type[SpillwayError]
) -> None:
    simulator = GeminiSimulator(faults=Faults(fault))
    async with gemini(simulator, valkey, stall_s=0.2, max_closed_s=0) as rig:
        with pytest.raises(kind) as caught:
            await rig.stream(ask())
        assert type(caught.value) is kind
        assert "Scripted" not in caught.value.message
        assert (await rig.stream(ask())).choices[0].content.text == WORDS
    assert simulator.running == 0


async def test_an_answer_cut_by_the_filter_says_so(valkey: str) -> None:
    async with gemini(GeminiSimulator(faults=Faults(faults.Filtered(after=2))), valkey) as rig:
        cut = await rig.stream(ask())
    finish = cut.choices[0].finish.reason
    assert (cut.choices[0].content.text, finish) == ("Simulated cloud", v1.FINISH_REASON_CONTENT_FILTER)


async def test_a_wrong_key_and_a_wrong_parameter_are_told_without_quoting_them(valkey: str) -> None:
    simulator = GeminiSimulator(key="AIza-right")
    async with gemini(simulator, valkey, key_env="KEY", environ={"KEY": "AIza-wrong"}) as rig:
        with pytest.raises(errors.ProviderAuthFailed) as caught:
            await rig.stream(ask())
    assert "AIza" not in caught.value.message
    async with gemini(GeminiSimulator(), valkey) as rig:
        with pytest.raises(RequestInvalid) as refused:
            await rig.stream(ask(extra={"generationConfig": {"wish": 1}}))
    assert [field.field for field in refused.value.fields] == ["gemini:generation_config"]


async def test_a_caller_that_leaves_ends_the_providers_work(valkey: str) -> None:
    simulator = GeminiSimulator(interval_s=0.01, answer=lambda body: "word " * 1000)
    async with gemini(simulator, valkey) as rig:
        async with aclosing(rig.events(ask())) as events:
            async for event in events:
                if event.HasField("delta"):
                    break
        await asyncio.wait_for(simulator.left.wait(), 5)
        await eventually(lambda: simulator.running == 0)


async def test_the_models_of_the_provider_are_listed_by_their_plain_names(valkey: str) -> None:
    async with gemini(GeminiSimulator(models=("gemini-3-flash-preview", "gemini-2.5-flash")), valkey) as rig:
        route = rig.app.proxy.routes[MODEL]
        assert await route.adapter.models(call()) == ["gemini-3-flash-preview", "gemini-2.5-flash"]
