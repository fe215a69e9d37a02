from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from google.protobuf.struct_pb2 import Struct

from spillway import v1
from spillway.errors import RequestInvalid, SchemaInvalid, StreamInterrupted
from spillway.generation import MAX_PROMPT_BYTES, Folder, check, check_routing, fold, for_decoder, prompt_bytes

USER, ASSISTANT, TOOL = v1.ROLE_USER, v1.ROLE_ASSISTANT, v1.ROLE_TOOL


def text(value: str = "hello") -> v1.GenerationSpec:
    return v1.GenerationSpec(text=v1.TextPrompt(text=value))


def chat(*messages: v1.Message) -> v1.GenerationSpec:
    return v1.GenerationSpec(chat=v1.Chat(messages=messages))


def said(words: str, role: v1.Role.ValueType = USER) -> v1.Message:
    return v1.Message(role=role, parts=[v1.Part(text=words)])


def sampling(**values: float) -> v1.GenerationSpec:
    return v1.GenerationSpec(text=v1.TextPrompt(text="hello"), sampling=v1.Sampling(**values))  # type: ignore[arg-type]


def constrained(**values: object) -> v1.GenerationSpec:
    return v1.GenerationSpec(
        text=v1.TextPrompt(text="hello"),
        constraint=v1.OutputConstraint(**values),  # type: ignore[arg-type]
    )


ENDLESS = Struct()
ENDLESS.update({"deep": [{"a": float("inf")}]})
GOOD = {
    "text": text(),
    "tokens": v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1])),
    "chat": chat(said("be short", v1.ROLE_SYSTEM), said("hi"), said("", ASSISTANT), said("and?")),
    "image alone": chat(v1.Message(role=USER, parts=[v1.Part(image=v1.Image(url="https://x/y.png"))])),
    "tool result": chat(v1.Message(role=TOOL, parts=[v1.Part(tool_result=v1.ToolResult(content="3"))])),
    "limits of sampling": sampling(
        temperature=0, top_p=1, top_k=-1, min_p=0, presence_penalty=-2, max_tokens=1, min_tokens=1, n=16, seed=-1
    ),
    "top_k off": sampling(top_k=0),
    "schema": constrained(json_schema='{"type": "object"}'),
    "boolean schema": constrained(json_schema="true"),
    "any object": constrained(json_object=True),
    "nothing before the middle": v1.GenerationSpec(text=v1.TextPrompt(suffix="return x")),
    "longest prompt": text("x" * MAX_PROMPT_BYTES),
}

WRONG = {
    "spec.input": [v1.GenerationSpec(), text("x" * (MAX_PROMPT_BYTES + 1)), chat(said("é" * MAX_PROMPT_BYTES))],
    "spec.text.text": [text(""), v1.GenerationSpec(text=v1.TextPrompt(text="", suffix=""))],
    "spec.tokens.ids": [v1.GenerationSpec(tokens=v1.TokenPrompt())],
    "spec.chat.messages": [chat()],
    "spec.chat.messages[0].role": [chat(said("hi", v1.ROLE_UNSPECIFIED)), chat(said("hi", 99))],  # type: ignore[arg-type]
    "spec.chat.messages[1].parts": [chat(said("hi"), v1.Message(role=USER)), chat(said("hi"), said(""))],
    "spec.chat.messages[0].parts[1]": [chat(v1.Message(role=USER, parts=[v1.Part(text="a"), v1.Part()]))],
    "spec.sampling.temperature": [
        sampling(temperature=-0.1),
        sampling(temperature=2.1),
        sampling(temperature=float("nan")),
    ],
    "spec.sampling.top_p": [sampling(top_p=0), sampling(top_p=1.1)],
    "spec.sampling.min_p": [sampling(min_p=-0.1)],
    "spec.sampling.top_k": [sampling(top_k=-2)],
    "spec.sampling.presence_penalty": [sampling(presence_penalty=2.1)],
    "spec.sampling.frequency_penalty": [sampling(frequency_penalty=-2.1)],
    "spec.sampling.repetition_penalty": [sampling(repetition_penalty=0)],
    "spec.sampling.max_tokens": [sampling(max_tokens=0), sampling(max_tokens=-5)],
    "spec.sampling.min_tokens": [sampling(min_tokens=-1), sampling(max_tokens=2, min_tokens=3)],
    "spec.sampling.n": [sampling(n=0), sampling(n=17)],
    "spec.extra": [v1.GenerationSpec(text=v1.TextPrompt(text="a"), extra=ENDLESS)],
    "spec.sampling.logit_bias": [
        v1.GenerationSpec(text=v1.TextPrompt(text="a"), sampling=v1.Sampling(logit_bias={1: 101.0}))
    ],
    "spec.stop.strings": [
        v1.GenerationSpec(text=v1.TextPrompt(text="a"), stop=v1.Stop(strings=[""])),
        v1.GenerationSpec(text=v1.TextPrompt(text="a"), stop=v1.Stop(strings=["a"] * 17)),
    ],
    "spec.constraint": [constrained()],
    "spec.constraint.choices.values": [constrained(choices=v1.Choices()), constrained(choices=v1.Choices(values=[""]))],
    "spec.constraint.regex": [constrained(regex="")],
    "spec.constraint.grammar": [constrained(grammar="")],
    "spec.logprobs.top": [v1.GenerationSpec(text=v1.TextPrompt(text="a"), logprobs=v1.Logprobs(top=21))],
    "spec.logprobs.prompt": [
        v1.GenerationSpec(text=v1.TextPrompt(text="a"), logprobs=v1.Logprobs(prompt=prompt)) for prompt in (-1, 21)
    ],
    "spec.constraint.schemas": [
        v1.GenerationSpec(
            text=v1.TextPrompt(text="a"), constraint=v1.OutputConstraint(regex="a", schemas={"urn:a": "{}"})
        ),
        constrained(json_schema="{}", schemas={f"urn:{number}": "{}" for number in range(1_001)}),
        constrained(json_schema="{}", schemas={"urn:a": '"' + "x" * 2**20 + '"'}),
    ],
    "spec.constraint.schemas[a]": [constrained(json_schema="{}", schemas={"a": "{}"})],
    "spec.coalescing.window_ms": [
        v1.GenerationSpec(text=v1.TextPrompt(text="a"), coalescing=v1.Coalescing(window_ms=1001))
    ],
    "spec.tools[1].name": [
        v1.GenerationSpec(text=v1.TextPrompt(text="a"), tools=[v1.Tool(name="look"), v1.Tool(description="no name")])
    ],
    "spec.tool_choice.name": [
        v1.GenerationSpec(
            text=v1.TextPrompt(text="a"), tools=[v1.Tool(name="look")], tool_choice=v1.ToolChoice(name="leap")
        )
    ],
}


@pytest.mark.parametrize("spec", GOOD.values(), ids=GOOD)
def test_what_a_target_could_serve_passes(spec: v1.GenerationSpec) -> None:
    check(spec)


@pytest.mark.parametrize(
    ("field", "spec"),
    [(field, spec) for field, specs in WRONG.items() for spec in specs],
    ids=lambda value: str(value)[:40],
)
def test_every_violation_names_its_field(field: str, spec: v1.GenerationSpec) -> None:
    with pytest.raises(RequestInvalid) as raised:
        check(spec)

    assert [violation.field for violation in raised.value.fields] == [field]
    assert raised.value.message.startswith(f"{field}: ")


def test_an_answer_that_is_only_judged_keeps_its_schemas_and_a_decoder_is_told_one() -> None:
    spec = constrained(json_schema='{"$ref": "urn:a"}', schemas={"urn:a": '{"type": "null"}'})
    told = for_decoder(spec)
    assert json.loads(told.constraint.json_schema) == {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}
    assert not told.constraint.schemas
    spec.constraint.enforcement = v1.ENFORCEMENT_CHECKED
    assert for_decoder(spec) == spec


@pytest.mark.parametrize("schema", ["", "{", "3", "[]", '"text"', "[" * 100_000])
def test_what_is_no_schema_is_refused_by_name(schema: str) -> None:
    with pytest.raises(SchemaInvalid) as raised:
        check(constrained(json_schema=schema))
    assert [violation.field for violation in raised.value.fields] == ["spec.constraint.json_schema"]

    with pytest.raises(SchemaInvalid) as raised:
        check(constrained(json_schema="{}", schemas={"urn:a": schema}))
    assert [violation.field for violation in raised.value.fields] == ["spec.constraint.schemas[urn:a]"]


def test_all_violations_are_told_at_once_and_none_repeats_the_prompt() -> None:
    spec = sampling(max_tokens=-1, temperature=9, top_p=7, n=0)
    spec.chat.messages.add(role=v1.ROLE_UNSPECIFIED).parts.add(text="a private matter")

    with pytest.raises(RequestInvalid) as raised:
        check(spec)

    assert len(raised.value.fields) == 5
    assert "private" not in raised.value.message + repr(raised.value.fields)


def test_a_routing_choice_of_another_version_is_refused_by_name() -> None:
    check_routing(v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX, data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY)))

    unknown = v1.RoutingPolicy(category=99, data_policy=v1.DataPolicy(residency=77))  # type: ignore[arg-type]
    with pytest.raises(RequestInvalid) as raised:
        check_routing(unknown)
    assert [violation.field for violation in raised.value.fields] == ["policy.category", "policy.data_policy.residency"]


def test_the_size_of_a_prompt_is_that_of_all_its_text() -> None:
    assert prompt_bytes(text("é")) == 2
    assert prompt_bytes(chat(said("ab"), said("c", ASSISTANT))) == 3
    call = v1.Message(role=ASSISTANT, parts=[v1.Part(tool_call=v1.ToolCall(name="f", arguments="{}"))])
    result = v1.Message(role=TOOL, parts=[v1.Part(tool_result=v1.ToolResult(content="abc"))])
    assert prompt_bytes(chat(call, result)) == 6
    tool = v1.Tool(name="f", description="é", parameters_json_schema="{}")
    assert prompt_bytes(v1.GenerationSpec(chat=chat(said("ab")).chat, tools=[tool])) == 7


# Folding.


def numbered(*events: v1.GenerationEvent) -> list[v1.GenerationEvent]:
    for number, event in enumerate(events):
        event.sequence = number
    return list(events)


def started(target: str = "local") -> v1.GenerationEvent:
    return v1.GenerationEvent(started=v1.Started(target=target))


def delta(words: str = "", **fields: object) -> v1.GenerationEvent:
    return v1.GenerationEvent(delta=v1.Delta(text=words, **fields))  # type: ignore[arg-type]


def finished(*reasons: v1.FinishReason.ValueType) -> v1.GenerationEvent:
    finishes = [v1.ChoiceFinish(choice=number, reason=reason) for number, reason in enumerate(reasons)]
    return v1.GenerationEvent(finished=v1.Finished(choices=finishes))


def usage() -> v1.GenerationEvent:
    return v1.GenerationEvent(usage=v1.Usage(completion_tokens=2))


def folded(*events: v1.GenerationEvent) -> v1.GenerateResponse:
    folder = Folder()
    for event in numbered(*events):
        folder.add(event)
    return folder.whole()


STOP, LENGTH = v1.FINISH_REASON_STOP, v1.FINISH_REASON_LENGTH


def test_a_stream_folds_into_the_whole_answer() -> None:
    answer = folded(
        started(),
        delta("one ", tokens=1, token_ids=[1], reasoning="hm "),
        v1.GenerationEvent(heartbeat=v1.Heartbeat()),
        delta("two", tokens=1, token_ids=[2], reasoning="so"),
        finished(STOP),
        usage(),
    )

    (choice,) = answer.choices
    assert (choice.content.text, choice.content.reasoning, choice.content.tokens) == ("one two", "hm so", 2)
    assert list(choice.content.token_ids) == [1, 2]
    assert choice.finish.reason == STOP
    assert answer.started.target == "local"
    assert answer.usage.completion_tokens == 2


def test_choices_are_kept_apart() -> None:
    answer = folded(
        started(),
        delta("b1", choice=1),
        delta("a1"),
        delta("b2", choice=1),
        delta("a2"),
        finished(STOP, LENGTH),
        usage(),
    )

    assert [(choice.content.choice, choice.content.text) for choice in answer.choices] == [(0, "a1a2"), (1, "b1b2")]
    assert [choice.finish.reason for choice in answer.choices] == [STOP, LENGTH]


def test_pieces_of_tool_calls_are_joined_by_their_index() -> None:
    answer = folded(
        started(),
        delta(tool_calls=[v1.ToolCallDelta(index=0, id="a", name="look", arguments='{"at"')]),
        delta(tool_calls=[v1.ToolCallDelta(index=1, id="b", name="leap")]),
        delta(tool_calls=[v1.ToolCallDelta(index=0, arguments=": 1}"), v1.ToolCallDelta(index=1, arguments="{}")]),
        finished(v1.FINISH_REASON_TOOL_CALLS),
        usage(),
    )

    calls = answer.choices[0].content.tool_calls
    assert [(call.index, call.id, call.name, call.arguments) for call in calls] == [
        (0, "a", "look", '{"at": 1}'),
        (1, "b", "leap", "{}"),
    ]


def test_a_restart_discards_what_came_before_it() -> None:
    restart = v1.GenerationEvent(route_changed=v1.RouteChanged(to_target="cloud", restarted=True))

    answer = folded(started(), delta("half an ans"), restart, started("cloud"), delta("whole"), finished(STOP), usage())

    assert [choice.content.text for choice in answer.choices] == ["whole"]
    assert answer.started.target == "cloud"


def test_a_resumed_answer_goes_on() -> None:
    resume = v1.GenerationEvent(route_changed=v1.RouteChanged(to_target="cloud", resumed_after_tokens=1))

    answer = folded(started(), delta("one "), resume, delta("two"), finished(STOP), usage())

    assert answer.choices[0].content.text == "one two"


def test_what_was_told_of_the_prompt_is_kept_by_who_goes_on_and_discarded_by_a_restart() -> None:
    first = started()
    first.started.prompt_logprobs.add(logprob=-1)
    resume = v1.GenerationEvent(route_changed=v1.RouteChanged(to_target="cloud", resumed_after_tokens=1))
    restart = v1.GenerationEvent(route_changed=v1.RouteChanged(to_target="cloud", restarted=True))
    for change, told in ((resume, [-1]), (restart, [])):
        answer = folded(first, delta("a"), change, started("cloud"), delta("b"), finished(STOP), usage())
        assert answer.started.target == "cloud"
        assert [found.logprob for found in answer.started.prompt_logprobs] == told


def test_a_count_of_tokens_that_is_not_complete_is_absent() -> None:
    partly = folded(started(), delta("a", tokens=1), delta("b"), delta("c", tokens=1), finished(STOP), usage())
    never = folded(started(), delta("a"), delta("b"), finished(STOP), usage())
    late = folded(started(), delta("a"), delta("b", tokens=1), finished(STOP), usage())

    for answer in (partly, never, late):
        assert not answer.choices[0].content.HasField("tokens")


@pytest.mark.parametrize("sequences", [[1], [0, 2], [0, 0], [0, 1, 3]])
def test_a_gap_or_a_repetition_is_no_stream(sequences: list[int]) -> None:
    folder = Folder()
    with pytest.raises(StreamInterrupted):
        for sequence in sequences:
            event = delta("x")
            event.sequence = sequence
            folder.add(event)


@pytest.mark.parametrize(
    "events", [[], [started(), delta("a")], [started(), delta("a"), finished(STOP)], [started(), delta("a"), usage()]]
)
def test_without_finished_and_usage_there_is_no_answer(events: list[v1.GenerationEvent]) -> None:
    with pytest.raises(StreamInterrupted):
        folded(*events)


def test_a_choice_nobody_can_have_asked_for_is_refused() -> None:
    with pytest.raises(StreamInterrupted, match="choice 4000000000"):
        folded(started(), delta("a", choice=4_000_000_000))


async def test_folding_takes_events_as_they_come() -> None:
    async def events() -> AsyncIterator[v1.GenerationEvent]:
        for event in numbered(started(), delta("all"), finished(STOP), usage()):
            yield event

    assert (await fold(events())).choices[0].content.text == "all"
