"""Tool calls and reasoning, read by vLLM's own parsers from tokens as an engine hands them over."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from services.local_engine import chat_template, prompt
from services.local_engine.answer import Answer
from services.local_engine.decoding import decoding
from services.local_engine.settings import VllmSettings
from spillway import v1
from spillway.errors import ConstraintUnsupported
from spillway.generation import merge_delta
from spillway.settings import SettingsError
from tests.integration.local_engine import scripted_model

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

WEATHER = v1.Tool(
    name="weather",
    description="how the weather is",
    parameters_json_schema=json.dumps({"type": "object", "properties": {"city": {"type": "string"}}}),
)
CLOCK = v1.Tool(name="clock")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
SECOND = '\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
XML = "<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>"


@dataclass
class Piece:
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: Any = None
    index: int = 0


@dataclass
class Model:
    """A tokenizer whose template knows tools and thinking."""

    tokenizer: Any
    config: Any

    made: dict[Any, Any] = field(default_factory=dict)

    def parsers(self, tool: str | None = "hermes", reasoning: str | None = None) -> Any:
        from services.local_engine.vllm_parsers import Parsers

        if (tool, reasoning) not in self.made:
            settings = VllmSettings(tool_parser=tool, reasoning_parser=reasoning)
            self.made[tool, reasoning] = Parsers(settings, self.config, self.tokenizer)
        return self.made[tool, reasoning]

    def reading(self, spec: v1.GenerationSpec, *, whole: bool = False, **named: str | None) -> Any:
        return self.parsers(**named).reading(spec, prompt.tokens(spec, self.tokenizer), whole=whole)

    def answer(
        self, spec: v1.GenerationSpec, said: str, sizes: Sequence[int], *, finish: str = "stop", **named: Any
    ) -> tuple[v1.Delta, Answer, list[v1.Delta]]:
        """Return what is made of `said`, in deltas of so many tokens and the rest in one, whole and in parts."""
        answer = Answer(spec, None, self.reading(spec, **named))
        whole, deltas = v1.Delta(), []
        for piece in self._pieces(said, sizes, finish):
            for delta in answer.deltas([piece]):
                deltas.append(delta)
                merge_delta(whole, delta)
        return whole, answer, deltas

    def _pieces(self, said: str, sizes: Sequence[int], finish: str) -> Iterator[Piece]:
        from tokenizers.decoders import DecodeStream

        ids = self.tokens(said)
        stream = DecodeStream(skip_special_tokens=False)
        at = 0
        for size in (*sizes, len(ids)):
            new = ids[at : at + size]
            at += size
            text = "".join(stream.step(self.tokenizer._tokenizer, one) or "" for one in new)
            yield Piece(text, new, finish if at >= len(ids) else None)
            if at >= len(ids):
                return

    def tokens(self, said: str) -> list[int]:
        return self.tokenizer.encode(said, add_special_tokens=False)  # type: ignore[no-any-return]

    def cuts(self, said: str) -> list[list[int]]:
        """Token by token, at every one point, and the first token apart as in a whole answer."""
        size = len(self.tokens(said))
        return [[1] * size, [], *([at] for at in range(1, size))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from transformers import AutoTokenizer
    from vllm.config import ModelConfig

    folder = str(scripted_model.write(tmp_path_factory.mktemp("models") / "scripted", {"§": ["Hello"]}))
    return Model(AutoTokenizer.from_pretrained(folder), ModelConfig(model=folder))


def asked(tools: Sequence[v1.Tool] = (WEATHER, CLOCK), **fields: Any) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="What is it like in Köln?")])])
    return v1.GenerationSpec(chat=chat, tools=tools, **fields)


def calls(delta: v1.Delta) -> list[tuple[int, str, Any]]:
    return [(call.index, call.name, json.loads(call.arguments)) for call in delta.tool_calls]


@pytest.mark.parametrize(
    ("said", "text", "called"),
    [
        (CALL, "", [(0, "weather", {"city": "Köln"})]),
        ("Let me see. " + CALL, "Let me see. ", [(0, "weather", {"city": "Köln"})]),
        (CALL + SECOND, "", [(0, "weather", {"city": "Köln"}), (1, "clock", {})]),
        ("It is 3 < 4, and a <tool is none.", "It is 3 < 4, and a <tool is none.", []),
        ("It ends with <tool", "It ends with <tool", []),
        ("Well: <tool_call>\nnonsense\n</tool_call>", "Well: <tool_call>\nnonsense\n</tool_call>", []),
    ],
)
def test_calls_are_told_from_text_wherever_the_tokens_are_cut(
    model: Model, said: str, text: str, called: list[Any]
) -> None:
    for cut in model.cuts(said):
        whole, answer, deltas = model.answer(asked(), said, cut)
        assert (whole.text, calls(whole)) == (text, called)
        assert list(whole.token_ids) == model.tokens(said)
        assert answer.completion_tokens == whole.tokens == len(whole.token_ids)
        (finish,) = answer.finished().choices
        assert finish.reason == (v1.FINISH_REASON_TOOL_CALLS if called else v1.FINISH_REASON_STOP)
        named = [call.id for delta in deltas for call in delta.tool_calls if call.id]
        assert len(named) == len(set(named)) == len(called)


@pytest.mark.parametrize(
    ("parser", "said", "called"),
    [
        ("hermes", CALL + SECOND, [(0, "weather", {"city": "Köln"}), (1, "clock", {})]),
        ("hermes", "Well: <tool_call>\nnonsense\n</tool_call>", []),
        ("hermes", "It ends with <tool", []),
        ("qwen3_coder", "Well: <tool_call>nonsense</tool_call> ok", []),
        ("qwen3_coder", "Well: <tool_call>nonsense", []),
        ("xlam", '[{"name": "clock", "arguments": {"zone": "CET"}}]', [(0, "clock", {"zone": "CET"})]),
        (
            "hunyuan_a13b",
            '<tool_calls>[{"name": "clock", "arguments": {"a": 1}}]</tool_calls>',
            [(0, "clock", {"a": 1})],
        ),
    ],
)
def test_an_answer_that_comes_whole_has_the_same_calls_and_nothing_is_lost(
    model: Model, parser: str, said: str, called: list[Any]
) -> None:
    for cut in model.cuts(said):
        for whole in (False, True):
            found, answer, _ = model.answer(asked(), said, cut, tool=parser, whole=whole)
            assert calls(found) == called
            assert called or found.text == said
            assert list(found.token_ids) == model.tokens(said)
            assert (answer.finished().choices[0].reason == v1.FINISH_REASON_TOOL_CALLS) == bool(called)


def test_arguments_come_as_they_are_made(model: Model) -> None:
    _, _, deltas = model.answer(asked(), CALL, [1] * 100)
    arguments = [call.arguments for delta in deltas for call in delta.tool_calls if call.arguments]
    assert len(arguments) > 5
    assert json.loads("".join(arguments)) == {"city": "Köln"}


def test_a_call_that_is_cut_off_is_no_call_that_ended(model: Model) -> None:
    _, answer, _ = model.answer(asked(), CALL[:-20], [1] * 100, finish="length")
    assert [finish.reason for finish in answer.finished().choices] == [v1.FINISH_REASON_LENGTH]


@pytest.mark.parametrize("parser", ["deepseek_r1", "qwen3"])
@pytest.mark.parametrize("said", ["It is sunny.", CALL])
def test_where_thinking_is_off_nothing_is_reasoning(model: Model, parser: str, said: str) -> None:
    spec = asked(reasoning_effort=v1.REASONING_EFFORT_NONE)
    for cut in model.cuts(said):
        for whole in (False, True):
            found, _, _ = model.answer(spec, said, cut, reasoning=parser, whole=whole)
            assert not found.reasoning
            assert (found.text == said) != bool(found.tool_calls)


@pytest.mark.parametrize("parser", ["deepseek_r1", "qwen3"])
@pytest.mark.parametrize(
    ("said", "reasoning", "text", "called"),
    [
        ("<think>Rain, or sun?</think>It is sunny.", "Rain, or sun?", "It is sunny.", []),
        ("<think>Rain, or sun?</think>" + CALL, "Rain, or sun?", "", [(0, "weather", {"city": "Köln"})]),
        ("<think>Who knows", "Who knows", "", []),
    ],
)
def test_reasoning_is_told_from_text_and_calls(
    model: Model, parser: str, said: str, reasoning: str, text: str, called: list[Any]
) -> None:
    inside = len(model.tokens(reasoning))
    for cut in model.cuts(said):
        found, *_ = model.answer(asked(), said, cut, reasoning=parser, whole=True)
        assert (found.reasoning, found.text, calls(found)) == (reasoning, text, called)
        whole, answer, deltas = model.answer(asked(), said, cut, reasoning=parser)
        assert (whole.reasoning, whole.text, calls(whole)) == (reasoning, text, called)
        assert list(whole.token_ids) == model.tokens(said)
        assert answer.usage(5).reasoning_tokens == inside
        assert len(cut) < 2 or sum(bool(delta.reasoning) for delta in deltas) > 2


def test_reasoning_that_the_template_has_begun_is_counted_too(model: Model) -> None:
    spec = asked(())
    ids = [*prompt.tokens(spec, model.tokenizer), *model.tokens("<think>")]
    answer = Answer(spec, None, model.parsers(None, "deepseek_r1").reading(spec, ids))
    said = "Rain, or sun?</think>Sun."
    for piece in model._pieces(said, [1] * 50, "stop"):
        list(answer.deltas([piece]))
    assert answer.usage(5).reasoning_tokens == len(model.tokens("Rain, or sun?"))


def test_what_cannot_be_counted_is_not_told_as_none(model: Model) -> None:
    whole, answer, _ = model.answer(
        asked(()), "Rain, or sun?</think>Sun.", [1] * 50, tool=None, reasoning="deepseek_r1"
    )
    assert whole.reasoning == "Rain, or sun?"
    assert not answer.usage(5).HasField("reasoning_tokens")


def test_a_parser_of_another_form_reads_the_same_call(model: Model) -> None:
    for cut in model.cuts(XML):
        whole, _, _ = model.answer(asked(), XML, cut, tool="qwen3_coder", reasoning=None)
        assert (whole.text, calls(whole)) == ("", [(0, "weather", {"city": "Köln"})])


def test_a_token_that_ends_the_answer_and_is_no_part_of_its_text_changes_nothing(model: Model) -> None:
    said = '[{"name": "clock", "arguments": {"zone": "CET"}}]'
    for cut in ([1] * 100, [9], []):
        answer, found = Answer(asked(), None, model.reading(asked(), tool="xlam")), v1.Delta()
        *pieces, last = model._pieces(said, cut, "stop")
        last.token_ids.append(1)
        for piece in (*pieces, last):
            for delta in answer.deltas([piece]):
                merge_delta(found, delta)
        assert calls(found) == [(0, "clock", {"zone": "CET"})]
        assert list(found.token_ids) == [*model.tokens(said), 1]


def test_each_choice_has_a_parser_of_its_own(model: Model) -> None:
    answer = Answer(asked(), None, model.reading(asked()))
    wholes = [v1.Delta(), v1.Delta(choice=1)]
    for first, second in zip(
        model._pieces(CALL, [1] * 100, "stop"), model._pieces("Hello there. " * 9, [1] * 100, "stop"), strict=False
    ):
        second.index = 1
        for delta in answer.deltas([first, second]):
            merge_delta(wholes[delta.choice], delta)
    assert calls(wholes[0]) == [(0, "weather", {"city": "Köln"})]
    assert wholes[1].text.startswith("Hello there. ")
    assert not wholes[1].tool_calls


def test_what_needs_no_parser_has_none(model: Model) -> None:
    both: dict[str, Any] = {"tool": "hermes", "reasoning": "deepseek_r1"}
    none = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE)
    assert model.reading(asked(()), tool="hermes") is None
    assert model.reading(asked(tool_choice=none), tool="hermes") is None
    assert model.reading(asked((), reasoning_effort=v1.REASONING_EFFORT_NONE), **both) is None
    begun = asked(())
    begun.chat.messages.add(role=v1.ROLE_ASSISTANT).parts.add().text = "It is"
    assert model.reading(begun, **both) is None
    assert model.reading(asked(()), **both) is not None


def test_one_call_at_a_time_is_one_call(model: Model) -> None:
    spec = asked()
    spec.extra["parallel_tool_calls"] = False
    whole, _, _ = model.answer(spec, CALL + SECOND, [1] * 100)
    assert calls(whole) == [(0, "weather", {"city": "Köln"})]


def held(model: Model, spec: v1.GenerationSpec, structure: dict[str, Any] | None = None, **named: Any) -> Any:
    how = decoding(spec, room=100, max_tokens=None, defaults={})
    return model.reading(spec, **named).held(how, structure or {})


@pytest.mark.parametrize("parser", ["hermes", "qwen3_coder", "xlam"])
@pytest.mark.parametrize("choice", [v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED), v1.ToolChoice(name="clock")])
def test_a_call_that_must_be_holds_the_decoder(model: Model, parser: str, choice: v1.ToolChoice) -> None:
    guide = held(model, asked(tool_choice=choice), tool=parser).guide
    assert guide.field == "spec.tools"
    assert ("weather" in guide.value) == (not choice.name)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (v1.ToolChoice(name="weather"), '{"city": "Köln"}'),
        (v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED), '[{"name": "weather", "parameters": {"city": "Köln"}}]'),
    ],
)
def test_a_call_that_must_be_is_read_from_the_form_that_it_was_held_to(
    model: Model, choice: v1.ToolChoice, said: str
) -> None:
    for cut in model.cuts(said):
        whole, answer, deltas = model.answer(asked(tool_choice=choice), said, cut, tool="xlam")
        assert (whole.text, calls(whole)) == ("", [(0, "weather", {"city": "Köln"})])
        assert answer.finished().choices[0].reason == v1.FINISH_REASON_TOOL_CALLS
        assert len(cut) < 2 or sum(len(delta.tool_calls) for delta in deltas) > 3


def test_a_call_that_may_be_leaves_the_decoder_free_and_the_markers_in(model: Model) -> None:
    how = held(model, asked())
    assert how.guide is None
    assert how.arguments["skip_special_tokens"] is False


def test_a_form_of_text_stands_beside_calls_and_a_call_that_must_be_has_none(model: Model) -> None:
    spec = asked(constraint=v1.OutputConstraint(regex="a+"))
    both = held(model, spec, {"regex": "a+"}).guide
    assert both.kind == "structural_tag"
    assert "weather" in both.value
    assert "a+" in both.value
    spec.tool_choice.mode = v1.TOOL_CHOICE_MODE_REQUIRED
    assert "a+" not in held(model, spec, {"regex": "a+"}).guide.value


def test_what_a_parser_cannot_hold_the_model_to_is_refused(model: Model) -> None:
    spec = asked(constraint=v1.OutputConstraint(regex="a+"))
    with pytest.raises(ConstraintUnsupported) as refusal:
        held(model, spec, {"regex": "a+"}, tool="pythonic")
    assert refusal.value.fields[0].field == "spec.constraint"


def test_thinking_that_cannot_be_turned_off_is_refused(model: Model) -> None:
    from services.local_engine.vllm_parsers import Parsers

    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = "<|assistant|>"
    parsers = Parsers(VllmSettings(reasoning_parser="deepseek_r1"), model.config, tokenizer)
    assert parsers.capabilities == ()
    with pytest.raises(ConstraintUnsupported, match=r"spec\.reasoning_effort"):
        parsers.reading(asked((), reasoning_effort=v1.REASONING_EFFORT_NONE), [5])
    tokenizer.chat_template = "{{ tools }}"
    with pytest.raises(ConstraintUnsupported, match=r"spec\.reasoning_effort"):
        parsers.reading(asked(reasoning_effort=v1.REASONING_EFFORT_NONE), [5])


def test_what_the_parsers_and_the_template_know_is_what_the_engine_can(model: Model) -> None:
    assert model.parsers("hermes", "qwen3").capabilities == (
        v1.CAPABILITY_TOOLS,
        v1.CAPABILITY_REASONING_EFFORT,
    )
    assert model.parsers(None, None).capabilities == ()


def test_a_parser_that_nobody_knows_is_a_wrong_setting_that_names_those_there_are() -> None:
    from services.local_engine.vllm_parsers import require

    with pytest.raises(SettingsError, match=r"local_engine\.vllm\.tool_parser: 'hermez' .*hermes"):
        require(VllmSettings(tool_parser="hermez"))
    with pytest.raises(SettingsError, match=r"local_engine\.vllm\.reasoning_parser: 'r1' .*deepseek_r1"):
        require(VllmSettings(reasoning_parser="r1"))


def test_a_parser_whose_markers_the_model_has_not_is_a_wrong_setting(model: Model) -> None:
    with pytest.raises(SettingsError, match=r"local_engine\.vllm: tool_parser deepseek_v3 cannot be used"):
        model.parsers("deepseek_v3")


def test_templates_are_given_tools_in_the_shape_that_vllms_own_server_gives_them() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam

    for told in chat_template.arguments(asked(), SimpleNamespace(chat_template="{{ tools }}"))["tools"]:
        assert ChatCompletionToolsParam.model_validate(told).model_dump() == told
