"""What every server of `InferenceService` does with a generation: check the request, fold the events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from math import isfinite

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from spillway import v1
from spillway.bundle import Unbundled, bundled, is_absolute
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid, SchemaInvalid, StreamInterrupted

MAX_PROMPT_BYTES = 8 * 2**20
"""Longest prompt that is looked at, in UTF-8 bytes; longer ones cannot fit any context."""
MAX_STOP_STRINGS = 16
MAX_CHOICES = 16
MAX_SAMPLES = 8
"""Most answers that are taken of one target to see whether they agree."""
MAX_SCHEMAS = 1_000
MAX_SCHEMAS_BYTES = 2**18
"""All schemas that another may refer to, in UTF-8 bytes."""
_SCHEMA = "spec.constraint.json_schema"
_ROLES = frozenset(v1.Role.values()) - {v1.ROLE_UNSPECIFIED}


def check(spec: v1.GenerationSpec) -> None:
    """Raise RequestInvalid or SchemaInvalid naming every field of `spec` that no target could serve."""
    wrong = list(_violations(spec))
    if wrong:
        said = "; ".join(f"{violation.field}: {violation.description}" for violation in wrong[:3])
        raise RequestInvalid(said, fields=wrong)
    if spec.constraint.WhichOneof("constraint") == "json_schema":
        _check_schema(spec.constraint.json_schema, _SCHEMA)
        for uri, schema in spec.constraint.schemas.items():
            _check_schema(schema, f"spec.constraint.schemas[{uri}]")


def for_decoder(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    """Return `spec` as a decoder can be held to it: its schema and those that it refers to as one.

    Raises ConstraintUnsupported where it refers to what is not in `schemas`, or in a way that one document cannot say.
    """
    constraint = spec.constraint
    if constraint.WhichOneof("constraint") != "json_schema" or constraint.enforcement == v1.ENFORCEMENT_CHECKED:
        return spec
    try:
        whole = bundled(constraint.json_schema, constraint.schemas)
    except Unbundled as error:
        said = f"a decoder cannot be held to it: {error}; ask with ENFORCEMENT_CHECKED, or without that reference"
        raise ConstraintUnsupported(f"{_SCHEMA}: {said}", fields=[FieldViolation(_SCHEMA, said)]) from None
    if whole == constraint.json_schema:
        return spec
    told = v1.GenerationSpec()
    told.CopyFrom(spec)
    told.constraint.json_schema = whole
    told.constraint.schemas.clear()
    return told


def check_routing(policy: v1.RoutingPolicy, spec: Message | None = None) -> None:
    """Raise RequestInvalid naming every choice of `policy` that is not known here, or does not go with `spec`."""
    wrong = list(_unknown_choices(policy, "policy"))
    if policy.HasField("samples") and not 1 <= policy.samples <= MAX_SAMPLES:
        wrong.append(FieldViolation("policy.samples", f"must be between 1 and {MAX_SAMPLES}"))
    if policy.delivery.records and isinstance(spec, v1.GenerationSpec):
        wrong += [FieldViolation("policy.delivery.records", said) for said in _against_records(policy, spec)]
    if wrong:
        said = "; ".join(f"{violation.field}: {violation.description}" for violation in wrong[:3])
        raise RequestInvalid(said, fields=wrong)


def _unknown_choices(message: Message, path: str) -> Iterator[FieldViolation]:
    for declared, value in message.ListFields():
        place = f"{path}.{declared.name}"
        if declared.enum_type is not None and value not in declared.enum_type.values_by_number:
            known = ", ".join(declared.enum_type.values_by_name)
            yield FieldViolation(place, f"{value} is not known here; one of {known}")
        elif declared.message_type is not None:
            yield from _unknown_choices(value, place)


def _against_records(policy: v1.RoutingPolicy, spec: v1.GenerationSpec) -> Iterator[str]:
    if policy.delivery.mode not in (v1.DELIVERY_MODE_UNSPECIFIED, v1.DELIVERY_MODE_COMMITTED):
        yield "goes with COMMITTED delivery alone"
    if spec.constraint.WhichOneof("constraint") not in ("json_schema", "json_object"):
        yield "needs an answer in JSON: say in spec.constraint what it has to be"
    if policy.validation == v1.VALIDATION_OFF:
        yield "needs validation: a record is given once it is accepted"


def _check_schema(text: str, path: str) -> None:
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise _bad_schema(path, f"not JSON: {error}") from None
    except RecursionError:
        raise _bad_schema(path, "nested too deep") from None
    if not isinstance(schema, dict | bool):
        raise _bad_schema(path, "a schema is a JSON object or a boolean")


def _bad_schema(path: str, description: str) -> SchemaInvalid:
    return SchemaInvalid(f"{path}: {description}", fields=[FieldViolation(path, description)])


def _violations(spec: v1.GenerationSpec) -> Iterator[FieldViolation]:
    match spec.WhichOneof("input"):
        case None:
            yield FieldViolation("spec.input", "is missing: set chat, text or tokens")
        case "text":
            if not spec.text.text and not spec.text.suffix:
                yield FieldViolation("spec.text.text", "is empty: say what is to be generated")
        case "tokens":
            if not spec.tokens.ids:
                yield FieldViolation("spec.tokens.ids", "is empty: give at least one token")
        case "chat":
            yield from _chat_violations(spec.chat)
    # The message holds all that the prompt does, and knows its own size.
    if spec.ByteSize() > MAX_PROMPT_BYTES and (size := prompt_bytes(spec)) > MAX_PROMPT_BYTES:
        yield FieldViolation("spec.input", f"has {size} bytes; at most {MAX_PROMPT_BYTES} are accepted")
    if spec.HasField("sampling"):
        yield from _sampling_violations(spec.sampling)
    if spec.HasField("stop"):
        if len(spec.stop.strings) > MAX_STOP_STRINGS:
            yield FieldViolation("spec.stop.strings", f"has more than {MAX_STOP_STRINGS} entries")
        if not all(spec.stop.strings):
            yield FieldViolation("spec.stop.strings", "has an empty entry")
    if spec.HasField("constraint"):
        kind = spec.constraint.WhichOneof("constraint")
        if kind is None:
            yield FieldViolation("spec.constraint", "is empty: set one constraint or leave it out")
        elif kind == "choices" and not spec.constraint.choices.values:
            yield FieldViolation("spec.constraint.choices.values", "is empty: give at least one choice")
        elif kind == "choices" and not all(spec.constraint.choices.values):
            yield FieldViolation("spec.constraint.choices.values", "has an empty entry")
        elif kind in ("regex", "grammar") and not getattr(spec.constraint, kind):
            yield FieldViolation(f"spec.constraint.{kind}", "is empty")
        yield from _schemas_violations(spec.constraint, kind)
    if spec.HasField("logprobs"):
        if not 0 <= spec.logprobs.top <= 20:
            yield FieldViolation("spec.logprobs.top", "must be between 0 and 20")
        if spec.logprobs.HasField("prompt") and not 0 <= spec.logprobs.prompt <= 20:
            yield FieldViolation("spec.logprobs.prompt", "must be between 0 and 20")
    if spec.HasField("coalescing") and not 0 <= spec.coalescing.window_ms <= 1000:
        yield FieldViolation("spec.coalescing.window_ms", "must be between 0 and 1000")
    for index, tool in enumerate(spec.tools):
        if not tool.name:
            yield FieldViolation(f"spec.tools[{index}].name", "is empty")
    if spec.HasField("extra"):
        yield from extra_violations(spec.extra)
    if spec.HasField("tool_choice") and spec.tool_choice.name not in ("", *(tool.name for tool in spec.tools)):
        yield FieldViolation("spec.tool_choice.name", "names none of spec.tools")


def _schemas_violations(constraint: v1.OutputConstraint, kind: str | None) -> Iterator[FieldViolation]:
    if constraint.schemas and kind != "json_schema":
        yield FieldViolation("spec.constraint.schemas", "goes with json_schema alone: nothing else refers to schemas")
    if len(constraint.schemas) > MAX_SCHEMAS:
        yield FieldViolation("spec.constraint.schemas", f"has more than {MAX_SCHEMAS} entries")
    for uri in constraint.schemas:
        if not is_absolute(uri):
            yield FieldViolation(f"spec.constraint.schemas[{uri[:200]}]", "is no absolute URI without a fragment")
    if (size := sum(len(text.encode()) for text in constraint.schemas.values())) > MAX_SCHEMAS_BYTES:
        yield FieldViolation("spec.constraint.schemas", f"has {size} bytes; at most {MAX_SCHEMAS_BYTES} are read")


def extra_violations(extra: Struct) -> Iterator[FieldViolation]:
    """What of `extra` is no JSON, in which it is sent."""
    if not all(map(_is_json, extra.fields.values())):
        yield FieldViolation("spec.extra", "holds a number that JSON does not know")


def _is_json(value: Value) -> bool:
    match value.WhichOneof("kind"):
        case "number_value":
            return isfinite(value.number_value)
        case "struct_value":
            return all(map(_is_json, value.struct_value.fields.values()))
        case "list_value":
            return all(map(_is_json, value.list_value.values))
    return True


def _chat_violations(chat: v1.Chat) -> Iterator[FieldViolation]:
    if not chat.messages:
        yield FieldViolation("spec.chat.messages", "is empty: give at least one message")
    for index, message in enumerate(chat.messages):
        if _is_plain(message):
            continue
        place = f"spec.chat.messages[{index}]"
        if message.role not in _ROLES:
            yield FieldViolation(f"{place}.role", "is missing: system, user, assistant or tool")
        for number, part in enumerate(message.parts):
            kind = part.WhichOneof("part")
            if kind is None:
                yield FieldViolation(f"{place}.parts[{number}]", "is empty: set text, image, tool_call or tool_result")
            elif kind == "provider_state" and message.role != v1.ROLE_ASSISTANT:
                yield FieldViolation(
                    f"{place}.parts[{number}].provider_state", "stands in a message of the assistant alone"
                )
        if not message.parts:
            yield FieldViolation(f"{place}.parts", "is empty: give at least one part")
        if message.role == v1.ROLE_USER and message.parts and not any(_says_something(part) for part in message.parts):
            yield FieldViolation(f"{place}.parts", "has no content: an empty prompt cannot be answered")


def _is_plain(message: v1.Message) -> bool:
    """Whether `message` is of one text that says something: most are, and nothing is wrong with them."""
    parts = message.parts
    return len(parts) == 1 and bool(parts[0].text) and message.role in _ROLES


def _says_something(part: v1.Part) -> bool:
    return part.WhichOneof("part") not in (None, "text", "provider_state") or bool(part.text)


def _sampling_violations(sampling: v1.Sampling) -> Iterator[FieldViolation]:
    for name, low, high in (
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("min_p", 0.0, 1.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("repetition_penalty", 0.0, 10.0),
    ):
        if sampling.HasField(name) and not low <= getattr(sampling, name) <= high:  # type: ignore[arg-type]
            yield FieldViolation(f"spec.sampling.{name}", f"must be between {low:g} and {high:g}")
    for name in ("top_p", "repetition_penalty"):
        if sampling.HasField(name) and getattr(sampling, name) == 0.0:  # type: ignore[arg-type]
            yield FieldViolation(f"spec.sampling.{name}", "must be above 0")
    if sampling.HasField("top_k") and sampling.top_k < -1:
        yield FieldViolation("spec.sampling.top_k", "must be at least 1, or 0 or -1 for off")
    if sampling.HasField("max_tokens") and sampling.max_tokens < 1:
        yield FieldViolation("spec.sampling.max_tokens", f"must be at least 1, is {sampling.max_tokens}")
    if sampling.HasField("min_tokens") and sampling.min_tokens < 0:
        yield FieldViolation("spec.sampling.min_tokens", "must not be negative")
    if sampling.HasField("max_tokens") and sampling.min_tokens > sampling.max_tokens >= 1:
        yield FieldViolation("spec.sampling.min_tokens", "must not be above max_tokens")
    if sampling.HasField("n") and not 1 <= sampling.n <= MAX_CHOICES:
        yield FieldViolation("spec.sampling.n", f"must be between 1 and {MAX_CHOICES}")
    if any(not -100 <= bias <= 100 for bias in sampling.logit_bias.values()):
        yield FieldViolation("spec.sampling.logit_bias", "biases must be between -100 and 100")


def prompt_bytes(spec: v1.GenerationSpec) -> int:
    """UTF-8 bytes of all text of the prompt: an upper bound of its byte-level BPE tokens, template and images aside.

    The text of an answer that is continued by it alone is part of the prompt, and so are tools.
    """
    told = 0
    if spec.HasField("continuation") and not spec.continuation.token_ids:
        told = len(spec.continuation.text.encode())
    for tool in spec.tools:
        told += sum(len(text.encode()) for text in (tool.name, tool.description, tool.parameters_json_schema))
    match spec.WhichOneof("input"):
        case "text":
            return told + len(spec.text.text.encode()) + len(spec.text.suffix.encode())
        case "chat":
            return told + sum(_part_bytes(part) for message in spec.chat.messages for part in message.parts)
        case _:
            return told


def image_count(spec: v1.GenerationSpec) -> int:
    """Images of the prompt, of which `prompt_bytes` tells nothing."""
    return sum(part.HasField("image") for message in spec.chat.messages for part in message.parts)


def _part_bytes(part: v1.Part) -> int:
    match part.WhichOneof("part"):
        case "text":
            return len(part.text.encode())
        case "tool_call":
            return len(part.tool_call.name.encode()) + len(part.tool_call.arguments.encode())
        case "tool_result":
            return len(part.tool_result.content.encode())
        case "provider_state":
            return len(part.provider_state.state)
        case _:
            return 0


@dataclass(slots=True)
class Folder:
    """Folds the events of one stream into the whole answer, checking that they are one.

    Raises StreamInterrupted where a sequence is skipped; `whole` raises it too unless Finished and Usage have come.
    """

    response: v1.GenerateResponse = field(default_factory=v1.GenerateResponse)
    _next: int = 0
    _finished: bool = False

    def add(self, event: v1.GenerationEvent) -> None:
        if event.sequence != self._next:
            raise StreamInterrupted(f"event {self._next} is missing, {event.sequence} came instead")
        self._next += 1
        match event.WhichOneof("event"):
            case "started":
                told = list(self.response.started.prompt_logprobs)
                self.response.started.CopyFrom(event.started)
                if not event.started.prompt_logprobs:  # who goes on with an answer does not tell them again
                    self.response.started.prompt_logprobs.extend(told)
            case "delta":
                self.add_delta(event.delta)
            case "route_changed" if event.route_changed.restarted:
                del self.response.choices[:]
                del self.response.started.prompt_logprobs[:]
            case "finished":
                self._finished = True
                for finish in event.finished.choices:
                    self.choice(finish.choice).finish.CopyFrom(finish)
            case "usage":
                self.response.usage.CopyFrom(event.usage)

    def add_delta(self, delta: v1.Delta) -> None:
        merge_delta(self.choice(delta.choice).content, delta)

    def choice(self, index: int) -> v1.Choice:
        if index >= MAX_CHOICES:
            raise StreamInterrupted(f"choice {index} came; at most {MAX_CHOICES} are asked for")
        while len(self.response.choices) <= index:
            position = len(self.response.choices)
            self.response.choices.add().content.choice = position
        return self.response.choices[index]

    def whole(self) -> v1.GenerateResponse:
        """The answer, if the stream ended as a good one does."""
        if not self._finished or not self.response.HasField("usage"):
            raise StreamInterrupted("the stream ended without Finished and Usage")
        return self.response


def merge_delta(into: v1.Delta, delta: v1.Delta) -> None:
    """Append `delta`, of the same choice, to `into`. The count of tokens is kept while every delta tells its own."""
    if delta.HasField("tokens") and (into.HasField("tokens") or not _has_content(into)):
        into.tokens += delta.tokens
    elif _has_content(delta):
        into.ClearField("tokens")
    into.text += delta.text
    into.reasoning += delta.reasoning
    into.token_ids.extend(delta.token_ids)
    into.logprobs.extend(delta.logprobs)
    if delta.HasField("provider_state"):
        into.provider_state.CopyFrom(delta.provider_state)
    for piece in delta.tool_calls:
        known = next((call for call in into.tool_calls if call.index == piece.index), None)
        if known is None:
            into.tool_calls.add().CopyFrom(piece)
        else:
            known.id = known.id or piece.id
            known.name = known.name or piece.name
            known.arguments += piece.arguments


def _has_content(delta: v1.Delta) -> bool:
    return bool(delta.text or delta.reasoning or delta.token_ids or delta.tool_calls)


async def fold(events: AsyncIterator[v1.GenerationEvent]) -> v1.GenerateResponse:
    """Return the whole answer of a stream of events."""
    folder = Folder()
    async for event in events:
        folder.add(event)
    return folder.whole()


def tokens_in(event: v1.GenerationEvent) -> int:
    """Tokens in `event`; a delta that does not tell is taken for one."""
    if not event.HasField("delta"):
        return 0
    return event.delta.tokens if event.delta.HasField("tokens") else 1
