"""From Python values to a request of the contract. What is wrong is said before anything is sent."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from opentelemetry.trace import Span

from spillway import v1
from spillway.embedding import Spec
from spillway.errors import FieldViolation, RequestInvalid
from spillway.rpc.remote import MAX_TIMEOUT_S

Prompt = str | Sequence[Mapping[str, str] | v1.Message] | v1.GenerationSpec
"""A user's text; a conversation of {"role": ..., "content": ...} or v1.Message; or a spec that is whole in itself."""

DEADLINE_S = 120.0


class Options(TypedDict, total=False):
    """Keyword arguments of a request. What is left out is the target's or the policy's own default."""

    # What is asked
    system: str
    """Instructions put before the conversation."""
    model: str
    """A model, an alias or a target; left out, the policy decides."""
    adapter: str
    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int
    n: int
    """Number of answers."""
    stop: str | Sequence[str]
    include_stop: bool
    json_schema: Mapping[str, Any] | str
    """The answer is JSON of this schema (a mapping, or its JSON text)."""
    schemas: Mapping[str, Mapping[str, Any] | str]
    """Schemas that `json_schema` may refer to, by absolute URI."""
    json_object: bool
    regex: str
    grammar: str
    choices: Sequence[str]
    """The answer is one of these."""
    enforcement: str
    """guided or checked."""
    repair: str
    """allowed or forbidden: whether broken JSON may be mended."""
    tools: Sequence[v1.Tool]
    reasoning_effort: str
    logprobs: int
    """Alternatives told beside each token; 0 is the token alone."""
    prompt_logprobs: int
    """The same for the tokens of the prompt, told in Started; `logprobs` are told too."""
    priority: str
    """interactive or background."""
    coalescing_ms: int
    """Longest time a later delta may be held to be merged."""
    prompt_cache_key: str
    """Prompts of one key begin alike: a provider that keeps beginnings finds them again."""
    prompt_cache_ttl_s: int
    """Seconds the prompt's beginning is worth keeping; the provider's next longer time is asked for."""
    extra: Mapping[str, Any]
    """Parameters that only one target knows."""

    # Where it may be answered
    category: str
    """routine, complex or safety_critical."""
    task: str
    """chat, classify, tag, extract, summarize, translate, write, code or reason."""
    labels: Sequence[str]
    local_only: bool
    """The content never leaves the site."""
    residency: str
    """any, regions or local_only."""
    regions: Sequence[str]
    sensitivity: str
    """public, internal, confidential or restricted."""
    max_retention_days: int
    """Longest time the content may be kept where it goes; 0: not at all."""
    inspect_input: bool
    """The prompt is inspected first, and what is found raises its sensitivity."""
    redact: bool
    """What is sensitive leaves the site as placeholders alone, and is put back into the answer."""
    allowed_targets: Sequence[str]
    denied_targets: Sequence[str]
    max_cost_usd: float
    """Highest cost of one target's answer."""
    failover: str
    """next or off."""
    delivery: str
    """live, probed or committed."""
    probe_tokens: int
    accepts_restart: bool
    records: bool
    """With JSON that is an array, or an object with one: each record comes once it is whole and accepted."""
    validation: str
    """off, preferred or required."""
    judgements: Sequence[str]
    """Judgement policies of the validator that the answer is held to."""
    context_policy: str
    """Where the prompt does not fit: refuse, larger, slide, summarize, passages or map_reduce."""
    cache: str
    """off, use or refresh; left out, the router's default."""

    # The call
    request_id: str
    """Idempotency key and log key."""
    session_id: str
    deadline_s: float
    """Seconds until the answer is worth nothing, a month at most; 120 if left out."""
    parent: Span
    """The span this request belongs to."""


class EmbedOptions(TypedDict, total=False):
    """Keyword arguments of an embedding. Those that `Options` has too mean the same."""

    model: str
    """A model, an alias, a target, or weights that several targets share."""
    dimensions: int
    """Length of the vectors, where the model can shorten its own."""
    priority: str
    extra: Mapping[str, Any]
    category: str
    task: str
    labels: Sequence[str]
    local_only: bool
    residency: str
    regions: Sequence[str]
    sensitivity: str
    max_retention_days: int
    inspect_input: bool
    redact: bool
    allowed_targets: Sequence[str]
    denied_targets: Sequence[str]
    max_cost_usd: float
    failover: str
    request_id: str
    deadline_s: float
    parent: Span


Inputs = str | Sequence[str | Sequence[int]] | v1.EmbeddingSpec
"""One text; several, each a text or token ids of the target's own tokenizer; or a spec that is whole in itself."""

NAMES = frozenset(Options.__annotations__)
_EMBED_NAMES = frozenset(EmbedOptions.__annotations__)
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("seed", "max_tokens", "min_tokens", "n"),
)
_TEXT_FIELDS = ("request_id", "session_id", "model", "adapter")
_CONSTRAINTS = ("json_schema", "regex", "grammar", "choices", "json_object")
_ROLES = {"system": v1.ROLE_SYSTEM, "user": v1.ROLE_USER, "assistant": v1.ROLE_ASSISTANT, "tool": v1.ROLE_TOOL}


def check_names(options: Mapping[str, Any], names: frozenset[str] = NAMES) -> None:
    """Raise TypeError for a keyword that no request has."""
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise TypeError(f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def build_spec(prompt: Prompt, options: Options) -> v1.GenerationSpec:
    """Return what is to be generated. Raises TypeError or RequestInvalid naming the option that is wrong."""
    check_names(options)
    spec = v1.GenerationSpec()
    if isinstance(prompt, v1.GenerationSpec):
        spec.CopyFrom(prompt)
    else:
        spec.chat.messages.extend(_messages(prompt))
    if system := options.get("system"):
        if spec.WhichOneof("input") != "chat":
            raise _wrong("system", "goes with a conversation, not with a text or token prompt")
        spec.chat.messages.insert(0, _message("system", system))
    for name in _TEXT_FIELDS:
        if (text := options.get(name)) is not None:
            _set(spec, name, text)
    for name in _SAMPLING:
        if (number := options.get(name)) is not None:
            _set(spec.sampling, name, number)
    stop = options.get("stop")
    if stop is not None:
        spec.stop.strings.extend(_texts("stop", [stop] if isinstance(stop, str) else stop))
    if options.get("include_stop"):
        spec.stop.include_stop = True
    _constrain(spec, options)
    spec.tools.extend(options.get("tools", ()))
    if (effort := options.get("reasoning_effort")) is not None:
        spec.reasoning_effort = _enum("reasoning_effort", effort, v1.ReasoningEffort)
    if (top := options.get("logprobs")) is not None:
        _set(spec.logprobs, "top", top, "logprobs")
        spec.logprobs.SetInParent()
    if (top := options.get("prompt_logprobs")) is not None:
        _set(spec.logprobs, "prompt", top, "prompt_logprobs")
    if (priority := options.get("priority")) is not None:
        spec.priority = _enum("priority", priority, v1.Priority)
    if (window_ms := options.get("coalescing_ms")) is not None:
        _set(spec.coalescing, "window_ms", window_ms, "coalescing_ms")
    for option, name in (("prompt_cache_key", "key"), ("prompt_cache_ttl_s", "ttl_s")):
        if (value := options.get(option)) is not None:
            _set(spec.prompt_cache, name, value, option)
    _add_extra(spec, options.get("extra"))
    return spec


def build_embedding(inputs: Inputs, options: EmbedOptions) -> v1.EmbeddingSpec:
    """Return what is to be embedded. Raises TypeError or RequestInvalid naming the option that is wrong."""
    check_names(options, _EMBED_NAMES)
    spec = v1.EmbeddingSpec()
    if isinstance(inputs, v1.EmbeddingSpec):
        spec.CopyFrom(inputs)
    elif isinstance(inputs, Sequence):
        for index, one in enumerate([inputs] if isinstance(inputs, str) else inputs):
            try:
                told = {"text": one} if isinstance(one, str) else {"tokens": v1.EmbeddingTokens(ids=one)}
                spec.inputs.append(v1.EmbeddingInput(**told))
            except (TypeError, ValueError):
                raise _wrong(f"inputs[{index}]", f"is a text or token ids, not {type(one).__name__}") from None
    else:
        raise _wrong("inputs", f"is a text, a list of inputs or a v1.EmbeddingSpec, not {type(inputs).__name__}")
    for name in ("request_id", "model", "dimensions"):
        if (value := options.get(name)) is not None:
            _set(spec, name, value)
    if (priority := options.get("priority")) is not None:
        spec.priority = _enum("priority", priority, v1.Priority)
    _add_extra(spec, options.get("extra"))
    return spec


def _add_extra(spec: Spec, extra: Mapping[str, Any] | None) -> None:
    if extra is not None:
        try:
            spec.extra.update(extra)
        except (TypeError, ValueError) as error:
            raise _wrong("extra", f"is not a JSON object: {error}") from None


def build_policy(options: Mapping[str, Any]) -> v1.RoutingPolicy:
    """Return what is asked of the routing. Raises RequestInvalid naming the option that is wrong."""
    policy = v1.RoutingPolicy()
    if (category := options.get("category")) is not None:
        policy.category = _enum("category", category, v1.Category)
    if (task := options.get("task")) is not None:
        policy.task = _enum("task", task, v1.Task)
    if (residency := options.get("residency")) is not None:
        policy.data_policy.residency = _enum("residency", residency, v1.Residency)
    if options.get("local_only"):
        policy.data_policy.residency = v1.RESIDENCY_LOCAL_ONLY
    if (sensitivity := options.get("sensitivity")) is not None:
        policy.data_policy.sensitivity = _enum("sensitivity", sensitivity, v1.Sensitivity)
    if regions := options.get("regions"):
        policy.data_policy.regions.extend(_texts("regions", regions))
    if (days := options.get("max_retention_days")) is not None:
        _set(policy.data_policy, "max_retention_days", days)
    if options.get("inspect_input"):
        policy.inspect_input = True
    if options.get("redact"):
        policy.redact = True
    policy.labels.extend(_texts("labels", options.get("labels", ())))
    policy.allowed_targets.extend(_texts("allowed_targets", options.get("allowed_targets", ())))
    policy.denied_targets.extend(_texts("denied_targets", options.get("denied_targets", ())))
    if (cost := options.get("max_cost_usd")) is not None:
        if not isinstance(cost, int | float) or cost < 0:
            raise _wrong("max_cost_usd", "is an amount of USD, 0 or more")
        policy.max_cost_nano_usd = round(cost * 1e9)
    if (failover := options.get("failover")) is not None:
        policy.failover = _enum("failover", failover, v1.Failover)
    if (delivery := options.get("delivery")) is not None:
        policy.delivery.mode = _enum("delivery", delivery, v1.DeliveryMode)
    if (probe := options.get("probe_tokens")) is not None:
        _set(policy.delivery, "probe_tokens", probe)
    if options.get("records"):
        policy.delivery.records = True
    if options.get("accepts_restart"):
        policy.delivery.accepts_restart = True
    if (validation := options.get("validation")) is not None:
        policy.validation = _enum("validation", validation, v1.Validation)
    policy.judgements.extend(_texts("judgements", options.get("judgements", ())))
    if (context := options.get("context_policy")) is not None:
        policy.context_policy = _enum("context_policy", context, v1.ContextPolicy)
    if (cache := options.get("cache")) is not None:
        policy.cache = _enum("cache", cache, v1.CacheMode)
    return policy


def deadline_s(options: Mapping[str, Any]) -> float:
    """Return the seconds the request may take. Raises RequestInvalid unless they are above 0."""
    seconds = options.get("deadline_s", DEADLINE_S)
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise _wrong("deadline_s", "is a number of seconds above 0")
    return min(float(seconds), MAX_TIMEOUT_S)


def _messages(prompt: str | Sequence[Mapping[str, str] | v1.Message]) -> list[v1.Message]:
    if isinstance(prompt, str):
        return [_message("user", prompt)]
    if not isinstance(prompt, Sequence):
        raise _wrong("prompt", f"is a text, a list of messages or a v1.GenerationSpec, not {type(prompt).__name__}")
    found = []
    for index, message in enumerate(prompt):
        if isinstance(message, v1.Message):
            found.append(message)
        elif isinstance(message, Mapping) and set(message) == {"role", "content"}:
            found.append(_message(message["role"], message["content"], f"prompt[{index}]"))
        else:
            raise _wrong(f"prompt[{index}]", 'is {"role": ..., "content": ...} or a v1.Message')
    return found


def _message(role: str, content: object, place: str = "prompt") -> v1.Message:
    if role not in _ROLES:
        raise _wrong(f"{place}.role", f"{role!r} is not one of {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise _wrong(f"{place}.content", f"is a text, not {type(content).__name__}; use v1.Message for other parts")
    return v1.Message(role=_ROLES[role], parts=[v1.Part(text=content)])


def _constrain(spec: v1.GenerationSpec, options: Options) -> None:
    named = [name for name in _CONSTRAINTS if options.get(name) not in (None, False)]
    if len(named) > 1:
        raise _wrong(named[1], f"cannot go together with {named[0]}: an answer has one constraint")
    constraint = spec.constraint
    if "json_schema" in named:
        schema = options["json_schema"]
        constraint.json_schema = schema if isinstance(schema, str) else json.dumps(schema)
    elif "choices" in named:
        constraint.choices.values.extend(_texts("choices", options["choices"]))
        constraint.choices.SetInParent()
    elif "json_object" in named:
        constraint.json_object = True
    elif named:
        _set(constraint, named[0], options.get(named[0]))
    for uri, schema in (options.get("schemas") or {}).items():
        constraint.schemas[uri] = schema if isinstance(schema, str) else json.dumps(schema)
    for option, words in (("enforcement", v1.Enforcement), ("repair", v1.Repair)):
        if (word := options.get(option)) is not None:
            if not named and not constraint.WhichOneof("constraint"):
                raise _wrong(option, f"needs a constraint: {', '.join(_CONSTRAINTS)}")
            _set(constraint, option, _enum(option, word, words))


def _enum(option: str, value: object, wrapper: Any) -> Any:
    """Return the member of the generated enum `wrapper` that `value` names: complex, or its number."""
    members: dict[str, int] = dict(wrapper.items())
    prefix = next(name for name, number in members.items() if number == 0).removesuffix("UNSPECIFIED")
    words = {name.removeprefix(prefix).lower(): number for name, number in members.items() if number}
    if isinstance(value, str) and value in words:
        return words[value]
    if isinstance(value, int) and value in members.values():
        return value
    near = difflib.get_close_matches(str(value).lower(), words, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise _wrong(option, f"{value!r} is not one of {', '.join(words)}{hint}")


def _texts(option: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise _wrong(option, "is a list of texts")
    return list(values)


def _set(message: Any, field: str, value: object, option: str = "") -> None:
    assign: Callable[[Any, str, object], None] = setattr
    try:
        assign(message, field, value)
    except (TypeError, ValueError) as error:
        raise _wrong(option or field, f"{value!r} does not fit: {error}") from None


def _wrong(option: str, description: str) -> RequestInvalid:
    return RequestInvalid(f"{option}: {description}", fields=[FieldViolation(option, description)])
