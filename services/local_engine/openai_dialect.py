"""OpenAI's chat completions, as each preset has them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from services.local_engine.image_source import listed
from services.local_engine.presets import Preset
from services.local_engine.runtime_errors import RUNTIMES
from services.local_engine.support import unsupported
from spillway import v1
from spillway.openai.answer import Answer
from spillway.openai.exchange import Exchange
from spillway.openai.request import body_of
from spillway.openai.sse import EventParser

OFF = {"n": (1,), "top_k": (0, -1), "min_p": (0.0,), "repetition_penalty": (1.0,), "min_tokens": (0,)}
"""Values that ask for nothing."""
CONSTRAINTS = {
    "json_schema": v1.CAPABILITY_JSON_SCHEMA,
    "json_object": v1.CAPABILITY_JSON_OBJECT,
    "regex": v1.CAPABILITY_REGEX,
    "grammar": v1.CAPABILITY_GRAMMAR,
    "choices": v1.CAPABILITY_CHOICES,
}


class OpenAIDialect:
    """Requests as `preset` takes them, for a model with `capabilities`, which may fetch images from `fetch_from`."""

    def __init__(
        self, preset: Preset, capabilities: Collection[v1.Capability.ValueType], *, fetch_from: Collection[str] = ()
    ) -> None:
        self._preset = preset
        self._fetch_from = fetch_from
        self._capabilities = frozenset(capabilities)
        begins = v1.CAPABILITY_PREFILL in self._capabilities
        self._prefill = (preset.prefill or "plain") if begins else None
        self.path = f"{preset.base}/chat/completions"

    def body(self, spec: v1.GenerationSpec, model: str) -> dict[str, Any]:
        preset = self._preset
        require(spec, preset, self._capabilities)
        spec = with_listed_images(spec, self._fetch_from)
        guide = _guide(spec, preset)
        if guide is not None or _is_checked(spec):
            spec = _freed(spec)
        body = body_of(spec, model, max_tokens_field="max_tokens", extended_sampling=True, prefill=self._prefill)
        body.update(guide or {})
        if not preset.streams:
            body["stream"] = False
        if not preset.streams or preset.usage != "asked":
            del body["stream_options"]
        if v1.CAPABILITY_REASONING_EFFORT not in self._capabilities:
            body.pop("reasoning_effort", None)
        if body.get("tools") and not preset.tool_choice and body.pop("tool_choice", "auto") == "none":
            del body["tools"]
        elif body.get("tools") and preset.tool_choice:
            body.setdefault("tool_choice", "auto")  # some take none for the default
        if preset.names_tops and "logprobs" in body:
            body.setdefault("top_logprobs", 0)
        for ours, theirs in preset.names.items():
            if ours in body:
                body[theirs] = body.pop(ours)
        return body

    def reader(self, choices: int, exchange: Exchange) -> EventReader:
        return EventReader(Answer(self._preset.name, choices, exchange, table=RUNTIMES))

    def __repr__(self) -> str:
        return f"<OpenAIDialect {self._preset.name}>"


class EventReader:
    """Server-sent events, read into an answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._events = EventParser()
        self.whole, self.check = answer.whole, answer.check

    @property
    def done(self) -> bool:
        return self._answer.done

    def feed(self, data: bytes) -> list[v1.Delta]:
        return self._answer.take(self._events.feed(data) if data else self._events.end())


def require(spec: v1.GenerationSpec, preset: Preset, capabilities: Collection[v1.Capability.ValueType]) -> None:
    """Raise ConstraintUnsupported naming the first field that `preset` would ignore or refuse."""
    name = preset.name
    for field, asked in (*_asked_sampling(spec.sampling), *_asked_stop(spec.stop)):
        if asked not in preset.parameters:
            raise unsupported(f"spec.{field}", f"{name} has no such parameter")
    constraint = spec.constraint.WhichOneof("constraint")
    if constraint is not None and not _is_checked(spec) and CONSTRAINTS[constraint] not in capabilities:
        raise unsupported(f"spec.constraint.{constraint}", f"{name} cannot hold its answers to that")
    if spec.HasField("logprobs"):
        if v1.CAPABILITY_LOGPROBS not in capabilities:
            raise unsupported("spec.logprobs", f"{name} tells none")
        if spec.tools and not preset.logprobs_with_tools:
            raise unsupported("spec.logprobs", f"{name} tells none where there are tools")
    if spec.tools and not preset.tool_choice:
        choice = spec.tool_choice
        if choice.name or choice.mode == v1.TOOL_CHOICE_MODE_REQUIRED:
            raise unsupported("spec.tool_choice", f"{name} leaves the choice to the model")
    if v1.CAPABILITY_IMAGES not in capabilities:
        for at, message in enumerate(spec.chat.messages):
            for number, part in enumerate(message.parts):
                if part.HasField("image"):
                    raise unsupported(f"spec.chat.messages[{at}].parts[{number}].image", "this model reads no images")
    if spec.HasField("continuation"):
        if v1.CAPABILITY_PREFILL not in capabilities:
            raise unsupported("spec.continuation", f"{name} does not go on with an answer that was begun")
        if spec.HasField("constraint"):
            raise unsupported("spec.constraint", "a constrained answer cannot be continued, only begun anew")


def with_listed_images(spec: v1.GenerationSpec, hosts: Collection[str]) -> v1.GenerationSpec:
    """Return `spec`, its images' URLs as they were looked at. Raises for one of another host than `hosts`.

    A runtime would fetch it from wherever it leads, for a request that may not leave the site too.
    """
    urls = [
        (at, number, part.image.url)
        for at, message in enumerate(spec.chat.messages)
        for number, part in enumerate(message.parts)
        if part.image.WhichOneof("source") == "url" and not part.image.url.startswith("data:")
    ]
    if not urls:
        return spec
    looked_at = v1.GenerationSpec()
    looked_at.CopyFrom(spec)
    for at, number, url in urls:
        field = f"spec.chat.messages[{at}].parts[{number}].image.url"
        looked_at.chat.messages[at].parts[number].image.url = str(listed(url, field, hosts))
    return looked_at


def _asked_sampling(sampling: v1.Sampling) -> list[tuple[str, str]]:
    return [
        (f"sampling.{field.name}", field.name)
        for field, value in sampling.ListFields()
        if field.name not in OFF or value not in OFF[field.name]
    ]


def _asked_stop(stop: v1.Stop) -> list[tuple[str, str]]:
    parameters = {"strings": "stop", "token_ids": "stop_token_ids"}
    return [(f"stop.{field.name}", parameters.get(field.name, field.name)) for field, _ in stop.ListFields()]


def _is_checked(spec: v1.GenerationSpec) -> bool:
    """The constraint is judged when the answer is there, and the decoder left alone."""
    return spec.HasField("constraint") and spec.constraint.enforcement == v1.ENFORCEMENT_CHECKED


def _freed(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    free = v1.GenerationSpec()
    free.CopyFrom(spec)
    free.ClearField("constraint")
    return free


def _guide(spec: v1.GenerationSpec, preset: Preset) -> dict[str, Any] | None:
    """Return what holds the decoder where `response_format` as OpenAI has it does not."""
    constraint = spec.constraint
    kind = constraint.WhichOneof("constraint")
    if kind not in ("regex", "grammar", "choices") or _is_checked(spec):
        return None
    match preset.guides, kind:
        case "structured_outputs", "choices":
            return {"structured_outputs": {"choice": list(constraint.choices.values)}}
        case "structured_outputs", _:
            return {"structured_outputs": {kind: getattr(constraint, kind)}}
        case "formats", "regex":
            return {"response_format": {"type": "regex", "regex": constraint.regex}}
        case "formats", "grammar":
            return {"response_format": {"type": "ebnf", "ebnf": constraint.grammar}}
        case "grammar", "grammar":
            return {"grammar": constraint.grammar}
    raise unsupported(f"spec.constraint.{kind}", f"there is no way to tell {preset.name}")
