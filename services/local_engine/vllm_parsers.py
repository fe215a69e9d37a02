"""vLLM's own parsers of tool calls and reasoning, fed as vLLM's OpenAI server feeds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tokenizers.decoders import DecodeStream
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMClientError
from vllm.parser import ParserManager
from vllm.parser.abstract_parser import DelegatingParser, Parser
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.sampling_params import StructuredOutputsParams
from vllm.tool_parsers import ToolParserManager

from services.local_engine import chat_messages, chat_template, prompt
from services.local_engine.answer import Completion
from services.local_engine.chat_messages import ImageForm
from services.local_engine.decoding import PARALLEL, Decoding, Guide
from services.local_engine.settings import VllmSettings
from services.local_engine.support import unsupported
from spillway import v1
from spillway.logs import get_logger
from spillway.settings import SettingsError

log = get_logger(__name__)

KEPT = ("skip_special_tokens", "spaces_between_special_tokens")
"""What parsers turn off so that they see the markers: fields of SamplingParams."""
GUIDES = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
"""Fields of StructuredOutputsParams that hold a guide."""
BEFORE = 8
"""Tokens of the prompt that decoding begins with: some tokenizers write a token otherwise where a text begins."""
PLAIN: Mapping[str, Any] = {"reasoning_ended": True}
"""What vLLM's engine is told of an answer without reasoning: a guide holds from the first token."""


def require(settings: VllmSettings) -> None:
    """Raise SettingsError for a parser that vLLM does not know."""
    for setting, known in (
        ("tool_parser", ToolParserManager.list_registered()),
        ("reasoning_parser", ReasoningParserManager.list_registered()),
    ):
        name = getattr(settings, setting)
        if name is not None and name not in known:
            said = f"{name!r} is not a parser of this vLLM; known: {', '.join(known)}"
            raise SettingsError(f"local_engine.vllm.{setting}: {said}")


class Parsers:
    """The parsers that the settings name, for one model."""

    def __init__(self, settings: VllmSettings, config: Any, tokenizer: Any) -> None:
        """`config` is vLLM's ModelConfig. Raises SettingsError where a parser cannot be used with this tokenizer."""
        self._config = config
        self._tokenizer = tokenizer
        self.reasons = settings.reasoning_parser is not None
        harmony = getattr(config.hf_config, "model_type", "") == "gpt_oss"
        template = chat_template.of(tokenizer, tools=True)
        tools = settings.tool_parser if template.knows_tools else None
        if settings.tool_parser is not None and tools is None:
            log.warning("engine.no_tools", why="the model's chat template knows no tools")
        found: tuple[tuple[v1.Capability.ValueType, bool], ...] = (
            (v1.CAPABILITY_TOOLS, tools is not None),
            (v1.CAPABILITY_REASONING_EFFORT, self.reasons and template.knows_effort),
        )
        self.capabilities = tuple(capability for capability, has in found if has)
        self._classes: dict[tuple[bool, bool], type[Parser] | None] = {}
        for kinds in ((True, True), (True, False), (False, True), (False, False)):
            # Harmony's messages are never plain text.
            names = (tools if kinds[0] or harmony else None, settings.reasoning_parser if kinds[1] or harmony else None)
            try:
                self._classes[kinds] = ParserManager.get_parser(
                    *names, True, model_name=config.model, is_harmony=harmony, tokenizer=tokenizer
                )
            except Exception as error:  # vLLM raises what the parser's own constructor does
                said = str(error).partition("\n")[0].replace("--tool-call-parser", "tool_parser")
                said = said.replace("--reasoning-parser", "reasoning_parser")
                raise SettingsError(f"local_engine.vllm: {said}") from error

    def reading(self, spec: v1.GenerationSpec, ids: list[int], *, whole: bool = False) -> Reading | None:
        """Return what reads the answer to `spec`, whose prompt is `ids`; None where it is plain text.

        Raises ConstraintUnsupported or SchemaInvalid naming the field.
        """
        if not spec.HasField("chat"):
            return None
        if spec.tool_choice.mode == v1.TOOL_CHOICE_MODE_REQUIRED and not spec.tools:
            raise unsupported("spec.tool_choice", "goes with tools only")
        template = chat_template.arguments(spec, self._tokenizer)
        if spec.reasoning_effort == v1.REASONING_EFFORT_NONE and self.reasons and not template.keys() - {"tools"}:
            raise unsupported("spec.reasoning_effort", "this model's thinking cannot be turned off")
        tools = bool(spec.tools) and spec.tool_choice.mode != v1.TOOL_CHOICE_MODE_NONE
        thinks = self.reasons and not prompt.is_begun(spec)
        if self._classes[tools, thinks] is None:
            return None
        request = _request(spec, template.get("tools") if tools else None)
        reading = self._reading(request, ids, template, thinks=thinks, whole=whole)
        if reading is not None and reading.has_thought:
            return self._reading(request, ids, template, thinks=False, whole=whole)
        return reading

    def _reading(
        self, request: Any, ids: list[int], template: Mapping[str, Any], *, thinks: bool, whole: bool
    ) -> Reading | None:
        made = self._classes[bool(request.tools), thinks]
        if made is None:
            return None

        def parser(tools: Any) -> Parser:
            return made(self._tokenizer, tools, model_config=self._config, chat_template_kwargs=template)

        return Reading(request, ids, parser, template, getattr(self._tokenizer, "_tokenizer", None), whole=whole)


class Reading:
    """How one answer is read: a parser for each choice."""

    def __init__(
        self,
        request: Any,
        ids: list[int],
        parser: Callable[[Any], Parser],
        template: Mapping[str, Any],
        backing: Any,
        *,
        whole: bool,
    ) -> None:
        """`backing` is the tokenizer that decodes token by token, where the model has one."""
        self._request = request
        self._ids = ids
        self._parser = parser
        self._template = template
        self._backing = backing
        self._whole = whole
        self._first = parser(request.tools)
        self._choices: dict[int, _Choice] = {}
        self._parallel = request.parallel_tool_calls is not False
        self._forced = request.tool_choice not in ("auto", "none")

    @property
    def has_thought(self) -> bool:
        """Whether the prompt ends after all reasoning. vLLM's parsers of whole answers do not look at the prompt."""
        plain = type(self._first).parse_delta is DelegatingParser.parse_delta
        return plain and self._first.reasoning_parser is not None and self._first.is_reasoning_end(self._ids)

    def held(self, how: Decoding, structure: Mapping[str, Any]) -> Decoding:
        """Return `how` with what the parsers need: markers in the text, and a guide where a tool must be called.

        `structure` is the caller's own guide, as a field of StructuredOutputsParams. It is a form of text: an answer
        that must be a call has none. Raises ConstraintUnsupported for what this model's parsers cannot hold it to.
        """
        request: Any = self._request
        own = StructuredOutputsParams(**structure) if structure and not self._forced else None
        request.structured_outputs = own
        for tool in (own and request.tools) or ():
            tool.function.strict = True  # vLLM lets calls stand beside the text's form where they have a form too
        try:
            self._request = request = self._first.adjust_request(request)
        except (VLLMClientError, ValueError, TypeError) as error:
            raise unsupported("spec.tools", str(error)[:300]) from None
        made = request.structured_outputs
        if self._forced and made is None:
            raise unsupported("spec.tool_choice", "this model's tool parser leaves it to the model; say auto")
        if own is not None and request.tools and made is own:
            raise unsupported("spec.constraint", "this model's tool parser cannot hold text to it beside tools")
        guide = how.guide
        if made is not own and made is not None:
            guide = _guide(made, "spec.tools" if request.tools or guide is None else guide.field)
        kept = {name: False for name in KEPT if not getattr(request, name)}
        return replace(how, arguments={**how.arguments, **kept}, guide=guide)

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """What vLLM's engine is told, so that a guide holds from where the reasoning ends."""
        if self._first.reasoning_parser is None:
            return dict(PLAIN)
        thinking = {name: value for name, value in self._template.items() if name != "tools"}
        return {
            "reasoning_ended": self._request.resolve_reasoning_ended(self._first, self._ids),
            "reasoning_parser_kwargs": {"chat_template_kwargs": thinking},
        }

    def read(self, completion: Completion, into: v1.Delta) -> None:
        """Put what `completion` adds to its choice into a delta."""
        choice = self._choices.get(completion.index)
        if choice is None:
            parser = self._parser(self._request.tools) if self._choices else self._first
            stream = DecodeStream(ids=self._ids[-BEFORE:], skip_special_tokens=self._request.skip_special_tokens)
            step = partial(stream.step, self._backing) if self._backing is not None else None
            choice = self._choices[completion.index] = _Choice(parser, self._request, self._ids, step)
        if not self._whole:
            choice.read(completion, into, parallel=self._parallel)
        else:
            choice.keep(completion)
            if completion.finish_reason is not None:
                choice.read_whole(into, parallel=self._parallel)

    def called(self, index: int) -> bool:
        """Whether the choice has called a tool."""
        choice = self._choices.get(index)
        return choice is not None and choice.called

    def reasoning_tokens(self) -> int | None:
        """Return the tokens of all reasoning; None where the parser cannot tell."""
        counts = [choice.reasoning_tokens() for choice in self._choices.values()]
        return sum(count for count in counts if count is not None) if None not in counts else None

    def __repr__(self) -> str:
        calls = sum(choice.called for choice in self._choices.values())
        return f"<Reading {type(self._first).__name__} {len(self._choices)} choices {calls} with calls>"


@dataclass(slots=True)
class _Choice:
    parser: Parser
    request: Any
    prompt: list[int]
    step: Callable[[int], str | None] | None
    """Decodes: the text that one more token brings."""
    called: bool = False
    reasoned: bool = False
    ids: list[int] = field(default_factory=list)
    pending: str = ""
    """The text that the parser was fed and has not told as text or reasoning, while it has told no call."""

    def keep(self, completion: Completion) -> None:
        self.ids += completion.token_ids
        self.pending += completion.text

    def read(self, completion: Completion, into: v1.Delta, *, parallel: bool) -> None:
        """Put what `completion` adds into a delta, as the streaming parsers of vLLM see it: token by token."""
        finished, parts = completion.finish_reason is not None, self._parts(completion)
        for at, (text, ids) in enumerate(parts, 1):
            self.ids += ids
            self.pending += text
            try:
                over = finished and at == len(parts)
                message = self.parser.parse_delta(text, ids, self.request, self.prompt, finished=over)
            except Exception as error:  # parsers read what a model makes up, and some are surprised by it
                self._gave_up(error)
                message = None
            if message is not None:
                into.reasoning += self._told(message.reasoning or "", text=False)
                into.text += self._told(message.content or "", text=True)
                self._call(into, message.tool_calls, parallel=parallel)
        if finished and self._takes_text:
            into.text += self._lost(self.pending)

    def read_whole(self, into: v1.Delta, *, parallel: bool) -> None:
        """Put the whole answer into a delta, as vLLM's parsers of whole answers see it."""
        said, marker = self.pending, self._marker("reasoning_end_str")
        try:
            self.parser.set_prompt_token_ids(self.prompt)
            reasoning, text, calls = self.parser.parse(said, self.request, True, self.ids)
        except Exception as error:
            self._gave_up(error)
            reasoning, text, calls = None, said, None
        into.reasoning, into.text = reasoning or "", text or ""
        self.reasoned = bool(reasoning)
        for index, call in enumerate(calls or ()):
            if parallel or not index:
                name = call.id or make_tool_call_id()
                into.tool_calls.add(index=index, id=name, name=call.name, arguments=call.arguments)
        self.called = bool(into.tool_calls)
        if self._takes_text:
            raw = said.partition(marker)[2] if marker and marker in said else "" if reasoning else said
            if into.text.strip() != raw.strip():
                into.text = raw

    def reasoning_tokens(self) -> int | None:
        count = self.parser.count_reasoning_tokens(self.ids)
        if not count and self.reasoned:  # it began in the prompt, where the template put the marker
            count = self.parser.count_reasoning_tokens([*self.prompt, *self.ids])
            count -= self.parser.count_reasoning_tokens(self.prompt)
        return count if count > 0 or not self.reasoned else None

    @property
    def _takes_text(self) -> bool:
        """Whether what became no call is text: where calls may be, and text is no more than that."""
        plain = type(self.parser).parse_delta is DelegatingParser.parse_delta
        return plain and self.parser.tool_parser is not None and not self.called

    def _parts(self, completion: Completion) -> list[tuple[str, list[int]]]:
        """Return `completion` token by token; as it is where its text is held back for a stop string."""
        ids = list(completion.token_ids)
        unparted = [(completion.text, ids)]
        if self.step is None or not ids:
            return unparted
        try:
            parts = [(self.step(one) or "", [one]) for one in ids]
        # The tokenizer's stream raises a bare Exception where it has lost its place; from there on it is of no use.
        except Exception as error:
            log.info("engine.parts_unknown", error=type(error).__name__)
            self.step = None
            return unparted
        if completion.finish_reason == "stop" and "".join(text for text, _ in parts) != completion.text:
            parts[-1] = ("", parts[-1][1])  # the text is told without the token that ended it
        return parts if "".join(text for text, _ in parts) == completion.text else unparted

    def _told(self, told: str, *, text: bool) -> str:
        """Return what the parser tells, with what it has left out before it on its way to a call that came to nothing.

        vLLM's parsers leave the marker in where reasoning comes together with it.
        """
        if not text and told and not self.reasoned:
            told = told.removeprefix(self._marker("reasoning_start_str") or "\0")
            self.reasoned = bool(told)
        at = self.pending.find(told) if told and self._takes_text else -1
        if at < 0:
            return told
        left, self.pending = self.pending[:at], self.pending[at + len(told) :]
        return self._lost(left) + told if text else told

    def _lost(self, left: str) -> str:
        for name in ("reasoning_start_str", "reasoning_end_str"):
            if (marker := self._marker(name)) and marker in left:
                left = left.partition(marker)[2]
        return left if left.strip() else ""

    def _call(self, into: v1.Delta, calls: Any, *, parallel: bool) -> None:
        for call in calls or ():
            if call.index and not parallel:
                continue
            self.called = True
            last = into.tool_calls[-1] if into.tool_calls else None
            if last is None or last.index != call.index:
                last = into.tool_calls.add(index=call.index)
            last.id = call.id or last.id
            if call.function is not None:
                last.name = call.function.name or last.name
                last.arguments += call.function.arguments or ""

    def _marker(self, name: str) -> str | None:
        return getattr(self.parser.reasoning_parser, name, None)

    def _gave_up(self, error: Exception) -> None:
        log.warning("engine.parser_gave_up", parser=type(self.parser).__name__, error=type(error).__name__)


def _request(spec: v1.GenerationSpec, tools: list[dict[str, Any]] | None) -> Any:
    """Return the part of OpenAI's request that vLLM's parsers look at; `tools` are those that may be called."""
    if not tools:
        return ChatCompletionRequest(messages=[])
    named = {"type": "function", "function": {"name": spec.tool_choice.name}}
    forced = "required" if spec.tool_choice.mode == v1.TOOL_CHOICE_MODE_REQUIRED else "auto"
    request: Any = ChatCompletionRequest(
        messages=[],
        tools=tools,
        tool_choice=named if spec.tool_choice.name else forced,
        parallel_tool_calls=PARALLEL not in spec.extra or bool(spec.extra[PARALLEL]),
    )
    request.messages = chat_messages.told(
        spec.chat, ImageForm(None), tools=True
    )  # some number their calls on from those in it
    return request


def _guide(made: StructuredOutputsParams, source: str) -> Guide:
    kind, value = next((kind, value) for kind in GUIDES if (value := getattr(made, kind)) is not None)
    return Guide(kind, json.dumps(value) if isinstance(value, dict) else value, source)
