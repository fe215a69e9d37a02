"""What of the contract goes where in Gemini's wire format, and what its answers and refusals mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloud_proxy.key import Key
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.settings import CloudProxySettings, ProviderSettings
from services.cloud_proxy.wires.gemini import Gemini
from services.cloud_proxy.wires.gemini_answer import GeminiAnswer, usage_of
from services.cloud_proxy.wires.gemini_refusal import refusal_of
from services.cloud_proxy.wires.gemini_state import UNSIGNED, Keepsake, signed
from spillway import errors, v1
from spillway.errors import ConstraintUnsupported, ContentFiltered, ProviderError, RequestInvalid, SpillwayError
from spillway.settings import load
from spillway.testing.gemini_wire import signature_of, wrong

NEW, OLD, PRO, OLDEST = "gemini-3-flash-preview", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.0-flash"
USER, ASSISTANT, TOOL = v1.ROLE_USER, v1.ROLE_ASSISTANT, v1.ROLE_TOOL
CALL = v1.Part(tool_call=v1.ToolCall(id="1", name="look", arguments='{"at": 1}'))
RESULT = v1.Part(tool_result=v1.ToolResult(tool_call_id="1", content="rain"))


def wire(**more: Any) -> Gemini:
    told = {"name": "g", "kind": "gemini", "region": "us", "models": [{"name": NEW}], "prefill": "plain", **more}
    return Gemini(ProviderSettings.model_validate(told))


def body(model: str = NEW, *, told: Gemini | None = None, **fields: Any) -> Any:
    """The body for a request with `fields`."""
    chat = v1.Chat(messages=[v1.Message(role=USER, parts=[v1.Part(text="hi")])])
    spec = v1.GenerationSpec(**fields if {"chat", "text", "tokens"} & fields.keys() else {"chat": chat, **fields})
    return json.loads((told or wire()).prepare(spec, model).body)


def talk(*said: tuple[v1.Role.ValueType, list[v1.Part]]) -> v1.Chat:
    return v1.Chat(messages=[v1.Message(role=role, parts=parts) for role, parts in said])


def test_the_model_stands_in_the_path_and_the_key_in_a_header() -> None:
    gemini = wire()
    chat = talk((USER, [v1.Part(text="hi")]))
    spec = v1.GenerationSpec(chat=chat, sampling=v1.Sampling(n=2))
    prepared = gemini.prepare(spec, "models/a b?")
    assert (prepared.path, prepared.choices) == ("models/a%20b%3F:streamGenerateContent?alt=sse", 2)
    assert gemini.headers(Key("AIza")) == {"x-goog-api-key": "AIza"}
    assert gemini.headers(None) == {}


def test_sampling_goes_by_googles_names_and_what_asks_for_nothing_is_not_sent() -> None:
    sampling = v1.Sampling(
        temperature=0.7,
        top_p=0.5,
        top_k=3,
        presence_penalty=-1,
        frequency_penalty=0.25,
        seed=7,
        max_tokens=9,
        n=2,
        min_p=0,
        repetition_penalty=1,
        min_tokens=0,
    )
    told = body(sampling=sampling, stop=v1.Stop(strings=["x"]), logprobs=v1.Logprobs(top=2))
    assert told["generationConfig"] == {
        "temperature": 0.7,
        "topP": 0.5,
        "topK": 3,
        "presencePenalty": -1,
        "frequencyPenalty": 0.25,
        "seed": 7,
        "maxOutputTokens": 9,
        "candidateCount": 2,
        "stopSequences": ["x"],
        "responseLogprobs": True,
        "logprobs": 2,
    }
    assert "generationConfig" not in body(sampling=v1.Sampling(top_k=-1, n=1))
    assert body(logprobs=v1.Logprobs())["generationConfig"] == {"responseLogprobs": True}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("spec.adapter", {"adapter": "a"}),
        ("spec.tokens", {"tokens": v1.TokenPrompt(ids=[1])}),
        ("spec.text.suffix", {"text": v1.TextPrompt(text="a", suffix="b")}),
        ("spec.continuation.token_ids", {"continuation": v1.Continuation(token_ids=[1], text="a")}),
        ("spec.continuation.text", {"continuation": v1.Continuation(text="a"), "text": v1.TextPrompt(text="a")}),
        (
            "spec.constraint",
            {"continuation": v1.Continuation(text="a"), "constraint": v1.OutputConstraint(json_object=True)},
        ),
        ("spec.constraint.regex", {"constraint": v1.OutputConstraint(regex="a")}),
        ("spec.constraint.grammar", {"constraint": v1.OutputConstraint(grammar="a")}),
        ("spec.logprobs.prompt", {"logprobs": v1.Logprobs(prompt=0)}),
        ("spec.stop.token_ids", {"stop": v1.Stop(token_ids=[1])}),
        ("spec.stop.strings", {"stop": v1.Stop(strings=list("abcdef"))}),
        ("spec.stop.include_stop", {"stop": v1.Stop(include_stop=True)}),
        ("spec.stop.ignore_eos", {"stop": v1.Stop(ignore_eos=True)}),
        ("spec.sampling.seed", {"sampling": v1.Sampling(seed=2**31)}),
        ("spec.sampling.min_p", {"sampling": v1.Sampling(min_p=0.1)}),
        ("spec.sampling.repetition_penalty", {"sampling": v1.Sampling(repetition_penalty=2)}),
        ("spec.sampling.min_tokens", {"sampling": v1.Sampling(min_tokens=1)}),
        ("spec.sampling.logit_bias", {"sampling": v1.Sampling(logit_bias={1: 1.0})}),
        ("spec.reasoning_effort", {"reasoning_effort": v1.REASONING_EFFORT_NONE}),
        (
            "spec.chat.messages[0].name",
            {"chat": v1.Chat(messages=[v1.Message(role=USER, name="Ann", parts=[v1.Part(text="a")])])},
        ),
    ],
)
def test_what_gemini_has_no_place_for_is_refused_by_name(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConstraintUnsupported) as caught:
        body(**fields)
    assert [field.field for field in caught.value.fields] == [path]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("spec.chat.messages", {"chat": talk((v1.ROLE_SYSTEM, [v1.Part(text="a")]))}),
        ("spec.continuation.text", {"continuation": v1.Continuation()}),
        ("spec.tool_choice.mode", {"tool_choice": v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)}),
        ("spec.extra.generationConfig", {"extra": {"generationConfig": 1}}),
        ("spec.chat.messages[0].parts[0].tool_result.tool_call_id", {"chat": talk((TOOL, [RESULT]))}),
        ("spec.chat.messages[0].parts[0]", {"chat": talk((USER, [CALL]))}),
        (
            "spec.chat.messages[0].parts[0].tool_call.arguments",
            {"chat": talk((ASSISTANT, [v1.Part(tool_call=v1.ToolCall(name="a", arguments="[1"))]))},
        ),
        ("spec.chat.messages[0].parts[0].image", {"chat": talk((USER, [v1.Part(image=v1.Image(data=b"a"))]))}),
        *(
            (
                "spec.chat.messages[0].parts[0].provider_state",
                {"chat": talk((ASSISTANT, [v1.Part(provider_state=v1.ProviderState(wire="gemini", state=state))]))},
            )
            for state in (
                b"",
                b"[]",
                b"{}",
                b'{"model": "models/gemini-3-flash-preview", "parts": [{}]}',
                b'{"model": "", "parts": [{"text": -1}]}',
                b"[" * 9999,
            )
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_named(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid) as caught:
        body(**fields)
    assert [field.field for field in caught.value.fields] == [path]


def test_an_output_is_held_to_json_a_schema_or_choices() -> None:
    def form(**constraint: Any) -> Any:
        return body(constraint=v1.OutputConstraint(**constraint))["generationConfig"]

    assert form(json_object=True) == {"responseMimeType": "application/json"}
    held = {"responseMimeType": "application/json", "responseJsonSchema": {"type": "integer"}}
    assert form(json_schema='{"type":"integer"}') == held
    picked = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}}
    assert form(choices=v1.Choices(values=["a", "b"])) == picked
    with pytest.raises(errors.SchemaInvalid):
        form(json_schema="{")


def test_an_answer_that_is_only_checked_is_not_held_to_its_constraint() -> None:
    for constraint in ({"regex": "a"}, {"json_object": True}):
        checked = v1.OutputConstraint(**constraint, enforcement=v1.ENFORCEMENT_CHECKED)
        assert body(constraint=checked) == body()


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        (NEW, v1.REASONING_EFFORT_LOW, {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-flash-latest", v1.REASONING_EFFORT_MEDIUM, {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        (OLD, v1.REASONING_EFFORT_LOW, {"thinkingBudget": 1024, "includeThoughts": True}),
        (f"models/{OLD}", v1.REASONING_EFFORT_MEDIUM, {"thinkingBudget": 8192, "includeThoughts": True}),
        (PRO, v1.REASONING_EFFORT_HIGH, {"thinkingBudget": 24576, "includeThoughts": True}),
        (OLD, v1.REASONING_EFFORT_NONE, {"thinkingBudget": 0}),
        (OLDEST, v1.REASONING_EFFORT_NONE, None),
        (NEW, v1.REASONING_EFFORT_UNSPECIFIED, None),
        (NEW, v1.REASONING_EFFORT_NONE, ConstraintUnsupported),
        (PRO, v1.REASONING_EFFORT_NONE, ConstraintUnsupported),
        (OLDEST, v1.REASONING_EFFORT_LOW, ConstraintUnsupported),
    ],
)
def test_every_model_is_told_in_its_own_way_how_much_to_think(
    model: str, effort: v1.ReasoningEffort.ValueType, config: Any
) -> None:
    if config is ConstraintUnsupported:
        with pytest.raises(ConstraintUnsupported, match=r"spec\.reasoning_effort"):
            body(model, reasoning_effort=effort)
    else:
        told = body(model, reasoning_effort=effort).get("generationConfig", {})
        assert told.get("thinkingConfig") == config


def test_the_result_of_a_tool_may_tell_the_tools_name() -> None:
    chat = talk((USER, [v1.Part(text="hi")]), (ASSISTANT, [CALL]), (TOOL, [RESULT]))
    unnamed = body(chat=chat)
    chat.messages[-1].name = "look"
    assert body(chat=chat) == unnamed


def test_extra_is_passed_on_under_what_the_contract_has_a_field_for() -> None:
    extra = {
        "cachedContent": "cachedContents/a",
        "generationConfig": {"topP": 0.25, "mediaResolution": "MEDIA_RESOLUTION_LOW", "seed": 3},
        "tools": [{"googleSearch": {}}],
        "toolConfig": {"retrievalConfig": {"languageCode": "en"}, "functionCallingConfig": {"mode": "AUTO"}},
        "contents": "mine",
    }
    choice = v1.ToolChoice(name="look")
    told = body(extra=extra, sampling=v1.Sampling(top_p=0.5), tools=[v1.Tool(name="look")], tool_choice=choice)
    assert told == {
        "cachedContent": "cachedContents/a",
        "generationConfig": {"topP": 0.5, "mediaResolution": "MEDIA_RESOLUTION_LOW", "seed": 3},
        "tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "look"}]}],
        "toolConfig": {
            "retrievalConfig": {"languageCode": "en"},
            "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]},
        },
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
    }


def test_hints_on_caching_are_taken_and_nothing_is_sent() -> None:
    message = v1.Message(role=USER, parts=[v1.Part(text="hi")], cache_breakpoint=True)
    told = body(chat=v1.Chat(messages=[message]), prompt_cache=v1.PromptCache(key="a", ttl_s=9))
    assert told == body()


@pytest.mark.parametrize(
    ("mode", "config"),
    [
        (v1.TOOL_CHOICE_MODE_AUTO, {"mode": "AUTO"}),
        (v1.TOOL_CHOICE_MODE_NONE, {"mode": "NONE"}),
        (v1.TOOL_CHOICE_MODE_REQUIRED, {"mode": "ANY"}),
    ],
)
def test_which_tools_may_be_called_is_said_only_where_there_are_tools(
    mode: v1.ToolChoiceMode.ValueType, config: Any
) -> None:
    choice = v1.ToolChoice(mode=mode)
    told = body(tools=[v1.Tool(name="look")], tool_choice=choice)
    assert told["toolConfig"] == {"functionCallingConfig": config}
    if mode != v1.TOOL_CHOICE_MODE_REQUIRED:
        assert body(tool_choice=choice) == body()


def test_system_messages_go_ahead_of_the_conversation_and_results_of_one_step_stand_together() -> None:
    other = v1.Part(tool_call=v1.ToolCall(id="2", name="hear"))
    failed = v1.Part(tool_result=v1.ToolResult(tool_call_id="2", content="deaf", is_error=True))
    chat = talk(
        (v1.ROLE_SYSTEM, [v1.Part(text="be brief")]),
        (USER, [v1.Part(text="hi")]),
        (ASSISTANT, [v1.Part(text=""), CALL, other]),
        (TOOL, [RESULT]),
        (TOOL, [failed]),
        (v1.ROLE_SYSTEM, [v1.Part(text="be kind")]),
    )
    told = body(OLD, chat=chat)
    assert told["systemInstruction"] == {"parts": [{"text": "be brief"}, {"text": "be kind"}]}
    assert told["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "look", "args": {"at": 1}}},
                {"functionCall": {"name": "hear", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "look", "response": {"output": "rain"}}},
                {"functionResponse": {"name": "hear", "response": {"error": "deaf"}}},
            ],
        },
    ]


def test_models_that_give_ids_get_them_back_with_a_word_for_the_missing_signature() -> None:
    told = body(NEW, chat=talk((USER, [v1.Part(text="hi")]), (ASSISTANT, [CALL, CALL]), (TOOL, [RESULT, RESULT])))
    _, model, answers = told["contents"]
    assert [part["functionCall"]["id"] for part in model["parts"]] == ["1", "1"]
    assert [part.get("thoughtSignature") for part in model["parts"]] == [UNSIGNED, None]
    assert [part["functionResponse"]["id"] for part in answers["parts"]] == ["1", "1"]


def test_an_answer_that_was_begun_is_the_last_content_and_goes_on_after_the_callers_own_beginning() -> None:
    going_on = v1.Continuation(text=" there")
    assert body(continuation=going_on)["contents"][-1] == {"role": "model", "parts": [{"text": " there"}]}
    chat = talk((USER, [v1.Part(text="hi")]), (ASSISTANT, [v1.Part(text="so")]))
    last = body(chat=chat, continuation=going_on)["contents"][-1]
    assert last == {"role": "model", "parts": [{"text": "so"}, {"text": " there"}]}
    with pytest.raises(ConstraintUnsupported):
        body(told=wire(prefill=None), continuation=going_on)


def answer(*chunks: Any, choices: int = 1) -> tuple[list[v1.Delta], Exchange]:
    """What a stream of `chunks` means."""
    exchange = Exchange()
    reader = GeminiAnswer("g", choices, f"models/{NEW}", exchange)
    deltas = reader.take(json.dumps(chunk).encode() for chunk in chunks)
    reader.check()
    return deltas, exchange


def chunk(*parts: Any, **more: Any) -> Any:
    return {"candidates": [{"content": {"parts": parts}, **more}]}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("STOP", v1.FINISH_REASON_STOP),
        ("MAX_TOKENS", v1.FINISH_REASON_LENGTH),
        ("CONTINUATION", v1.FINISH_REASON_LENGTH),
        ("SAFETY", v1.FINISH_REASON_CONTENT_FILTER),
        ("RECITATION", v1.FINISH_REASON_CONTENT_FILTER),
        ("PROHIBITED_CONTENT", v1.FINISH_REASON_CONTENT_FILTER),
        ("SPII", v1.FINISH_REASON_CONTENT_FILTER),
        ("MALFORMED_FUNCTION_CALL", None),
        ("MISSING_THOUGHT_SIGNATURE", None),
        ("OTHER", None),
        ("FINISH_REASON_UNSPECIFIED", None),
        ("Because I said so.", None),
    ],
)
def test_a_finish_reason_is_one_of_ours_or_the_answer_is_broken_off(
    told: str, reason: v1.FinishReason.ValueType | None
) -> None:
    if reason is None:
        with pytest.raises(ProviderError) as caught:
            answer(chunk({"text": "a"}, finishReason=told))
        assert "said so" not in caught.value.message
    else:
        (delta,), exchange = answer(chunk({"text": "a"}, finishReason=told))
        assert (delta.text, exchange.finishes[0].reason) == ("a", reason)


def test_calls_end_an_answer_as_calls_unless_it_was_cut() -> None:
    call = {"functionCall": {"name": "look"}}
    (delta,), whole = answer(chunk(call, finishReason="STOP"))
    _, cut = answer(chunk(call, finishReason="MAX_TOKENS"))
    assert (delta.tool_calls[0].name, delta.tool_calls[0].arguments) == ("look", "{}")
    assert [one.finishes[0].reason for one in (whole, cut)] == [v1.FINISH_REASON_TOOL_CALLS, v1.FINISH_REASON_LENGTH]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk({"text": "a"})],
        [{"candidates": [{"index": 7}]}],
        [{"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}],
        [{"usageMetadata": {"promptTokenCount": -1}}],
        ["words"],
        [{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}],
    ],
)
def test_what_is_no_whole_answer_is_the_providers_failure(chunks: list[Any]) -> None:
    with pytest.raises(ProviderError):
        answer(*chunks)


def test_a_prompt_that_was_blocked_is_filtered_and_names_the_reason_alone() -> None:
    blocked = {"promptFeedback": {"blockReason": "JAILBREAK", "blockReasonMessage": "You said: boo"}}
    with pytest.raises(ContentFiltered) as caught:
        answer(blocked)
    assert caught.value.metadata == {"code": "JAILBREAK"}
    with pytest.raises(ContentFiltered):
        answer(chunk(finishReason="SAFETY"))


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"promptTokenCount": 4, "totalTokenCount": 4}, v1.Usage(prompt_tokens=4, completion_tokens=0)),
        ({"promptTokenCount": 4}, v1.Usage(prompt_tokens=4)),
        ({}, v1.Usage()),
        (
            {
                "promptTokenCount": 4,
                "toolUsePromptTokenCount": 3,
                "cachedContentTokenCount": 2,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 6,
            },
            v1.Usage(prompt_tokens=7, cached_prompt_tokens=2, completion_tokens=11, reasoning_tokens=6),
        ),
    ],
)
def test_usage_counts_every_token_once_and_unknown_is_not_zero(told: dict[str, int], usage: v1.Usage) -> None:
    assert usage_of(told) == usage


PARTS = st.lists(
    st.tuples(st.sampled_from(["text", "thought", "call"]), st.text(max_size=5), st.sampled_from([None, "s1", "s2"]))
)


@given(PARTS)
def test_signatures_come_back_each_on_its_own_part(told: list[tuple[str, str, str | None]]) -> None:
    keepsake, calls, wanted = Keepsake(), list[dict[str, Any]](), list[tuple[str, str | None]]()
    for kind, text, signature in told:
        if kind == "call":
            keepsake.call(signature)
            calls.append({"functionCall": {"name": text}})
        else:
            getattr(keepsake, kind)(text, signature)
        if signature is not None:
            wanted.append((text, signature))
    text = "".join(text for kind, text, _ in told if kind == "text")
    state = keepsake.state("models/m")
    if state is None:
        assert not wanted
        return
    parts = signed(state.state, "models/m", text, calls)
    assert parts is not None
    names = [
        (str(part.get("text", part.get("functionCall", {}).get("name"))), part.get("thoughtSignature"))
        for part in parts
    ]
    assert [name for name in names if name[1] is not None] == wanted
    assert "".join(part["text"] for part in parts if "text" in part and "thought" not in part) == text
    assert signed(state.state, "models/other", text, calls) is None
    assert signed(state.state, "models/m", f"{text}!", calls) is None
    assert signed(state.state, "models/m", text, [*calls, {}]) is None


STEPS = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=5)


@given(STEPS, st.sampled_from([NEW, OLD]))
def test_every_conversation_keeps_the_rules_of_gemini(steps: list[tuple[int, bool, bool]], model: str) -> None:
    """Steps of some calls, signed or not, whose results come in one message or in one each."""
    said: list[tuple[v1.Role.ValueType, list[v1.Part]]] = []
    for at, (count, signs, apart) in enumerate(steps):
        said.append((USER, [v1.Part(text=f"question {at}"), v1.Part(text="")]))
        calls = [v1.ToolCall(id=f"{at}.{number}", name=f"tool{number}") for number in range(count)]
        keepsake = Keepsake()
        keepsake.text("so", None)
        for number in range(count):
            keepsake.call(signature_of(model, str(at)) if signs and number == 0 else None)
        state = keepsake.state(f"models/{model}")
        parts = [v1.Part(provider_state=state)] if state is not None else []
        said.append((ASSISTANT, [*parts, v1.Part(text="so"), *(v1.Part(tool_call=call) for call in calls)]))
        found = [v1.Part(tool_result=v1.ToolResult(tool_call_id=call.id, content="a")) for call in calls]
        said += [(TOOL, [one]) for one in found] if apart else [(TOOL, found)] if found else []
    if not steps[-1][0]:
        said.append((USER, [v1.Part(text="and?")]))
    told = body(model, chat=talk(*said))
    assert wrong(told, model, signed=model == NEW, takes_prefill=False) is None


RPC = "type.googleapis.com/google.rpc."


def refusal(status: int, name: str = "", message: str = "", *details: Any, **headers: str) -> SpillwayError:
    told = {"code": status, "status": name, "message": message, "details": list(details)}
    return refusal_of("g", status, {"error": told}, headers, now=0.0, request_id="r")


@pytest.mark.parametrize(
    ("status", "name", "message", "kind"),
    [
        (400, "INVALID_ARGUMENT", "", errors.RequestInvalid),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            errors.ContextLengthExceeded,
        ),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", errors.ProviderOutOfCredit),
        (401, "UNAUTHENTICATED", "", errors.ProviderAuthFailed),
        (403, "PERMISSION_DENIED", "", errors.ProviderAuthFailed),
        (
            403,
            "PERMISSION_DENIED",
            "You do not have permission to access the File a or it may not exist.",
            errors.RequestInvalid,
        ),
        (404, "NOT_FOUND", "", errors.TargetModelMissing),
        (429, "RESOURCE_EXHAUSTED", "", errors.ProviderRateLimited),
        (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", errors.ProviderOutOfCredit),
        (429, "RESOURCE_EXHAUSTED", "metric: requests, limit: 0, model: m", errors.ProviderOutOfCredit),
        (429, "RESOURCE_EXHAUSTED", "metric: requests, limit: 05, model: m", errors.ProviderRateLimited),
        (499, "CANCELLED", "", errors.ProviderError),
        (500, "INTERNAL", "", errors.ProviderError),
        (503, "UNAVAILABLE", "", errors.ProviderError),
        (504, "DEADLINE_EXCEEDED", "", errors.TargetTimeout),
        (502, "", "", errors.ProviderError),
        (418, "", "", errors.ProviderError),
    ],
)
def test_a_refusal_has_its_class_and_none_of_its_words(
    status: int, name: str, message: str, kind: type[SpillwayError]
) -> None:
    found = refusal(status, name, message)
    assert type(found) is kind
    assert not message or message not in found.message
    assert found.metadata["http_status"] == str(status)


@pytest.mark.parametrize("quota", ["GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "GenerateRequestsPerDay"])
def test_a_spent_quota_comes_back_when_google_says_so(quota: str) -> None:
    violations = {"@type": f"{RPC}QuotaFailure", "violations": [{"quotaId": quota, "quotaValue": "20"}]}
    retry = {"@type": f"{RPC}RetryInfo", "retryDelay": "35694.5s"}
    found = refusal(429, "RESOURCE_EXHAUSTED", "", violations, retry)
    assert (type(found), found.retry_after_s) == (errors.ProviderRateLimited, 35694.5)
    assert found.metadata["quota"] == quota
    assert refusal(429, "RESOURCE_EXHAUSTED").retry_after_s is None
    assert refusal(503, "UNAVAILABLE", "", **{"retry-after": "2"}).retry_after_s == 2


def test_a_bad_key_is_known_by_its_reason_and_a_bad_field_by_its_name() -> None:
    reason = {"@type": f"{RPC}ErrorInfo", "reason": "API_KEY_INVALID"}
    field = {
        "@type": f"{RPC}BadRequest",
        "fieldViolations": [{"field": "contents[0].parts", "description": "You wrote x"}],
    }
    assert type(refusal(400, "INVALID_ARGUMENT", "", reason)) is errors.ProviderAuthFailed
    named = refusal(400, "INVALID_ARGUMENT", "", field)
    assert [(one.field, one.description) for one in named.fields] == [("g:contents[0].parts", "INVALID_ARGUMENT")]


@pytest.mark.parametrize("told", [None, [], "words", {"error": "words"}, {"error": {"details": [1, {"@type": 2}]}}])
def test_a_refusal_of_another_shape_goes_by_its_status(told: object) -> None:
    assert type(refusal_of("g", 429, told, {}, now=0.0, request_id="")) is errors.ProviderRateLimited


def test_a_refusal_in_a_list_is_read_as_one() -> None:
    told = [{"error": {"code": 400, "status": "FAILED_PRECONDITION"}}]
    assert type(refusal_of("g", 400, told, {}, now=0.0, request_id="")) is errors.ProviderOutOfCredit


@pytest.mark.parametrize("told", [b"", b"{}", b'{"models": [1]}', b"[]"])
def test_what_lists_no_models_is_the_providers_failure(told: bytes) -> None:
    with pytest.raises(ProviderError):
        wire().read_models(told)


def test_the_example_of_the_documentation_is_a_configuration() -> None:
    path = Path(__file__).parents[5] / "docs" / "providers" / "gemini.yaml"
    (provider,) = load("cloud_proxy", CloudProxySettings, path=path, environ={}).providers
    assert (provider.kind, provider.simulated) == ("gemini", True)
