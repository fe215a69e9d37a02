"""Between the contract and policy: a request read into facts, a plan told as a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from spillway import v1
from spillway.egress import DataPolicy
from spillway.embedding import Spec, input_bytes
from spillway.generation import image_count, prompt_bytes
from spillway.tokens import BYTES_PER_TOKEN, estimated

from .facts import Category, ContextName, Delivery, Facts, StrategyName, Validation
from .plan import Fit, Plan
from .rulebook import Rulebook
from .target import Target

_CONSTRAINT_NEEDS = {
    "json_schema": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "grammar": "grammar",
    "choices": "choices",
}
_TASKS = {number: name.removeprefix("TASK_").lower() for name, number in v1.Task.items() if number}
_PRIORITIES = {
    v1.PRIORITY_UNSPECIFIED: "interactive",
    v1.PRIORITY_INTERACTIVE: "interactive",
    v1.PRIORITY_BACKGROUND: "background",
}
KINDS = {"local": v1.TARGET_KIND_LOCAL, "cloud": v1.TARGET_KIND_CLOUD}


def read_facts(spec: Spec, policy: v1.RoutingPolicy, asked: DataPolicy, tenant: str) -> Facts:
    """Read off a request what policy decides on; `asked` is the data policy of its caller and earlier routers."""
    said = partial(
        Facts,
        tenant=tenant,
        model=spec.model,
        priority=_PRIORITIES[spec.priority],
        data_policy=asked,
        **(_wishes(policy) if policy.ByteSize() else {}),  # most say nothing
    )
    samples = policy.samples if policy.HasField("samples") else None
    return _embedding(said, spec, samples) if isinstance(spec, v1.EmbeddingSpec) else _generation(said, spec, samples)


def _wishes(policy: v1.RoutingPolicy) -> dict[str, Any]:
    """Read off a policy that says something what its facts are."""
    return {
        "category": Category(policy.category),
        "task": _TASKS.get(policy.task, ""),
        "labels": frozenset(policy.labels),
        "allowed": frozenset(policy.allowed_targets),
        "denied": frozenset(policy.denied_targets),
        "max_cost_nano_usd": policy.max_cost_nano_usd if policy.HasField("max_cost_nano_usd") else None,
        "failover": policy.failover != v1.FAILOVER_OFF,
        "delivery": Delivery(policy.delivery.mode or (policy.delivery.records and v1.DELIVERY_MODE_COMMITTED)),
        "records": policy.delivery.records,
        "validation": Validation(policy.validation),
        "judgements": frozenset(policy.judgements),
        "strategy": StrategyName(policy.strategy),
        "confidence_threshold": policy.confidence_threshold if policy.HasField("confidence_threshold") else None,
        "context": ContextName(policy.context_policy),
        "inspect": policy.inspect_input,
        "redact": policy.redact,
    }


def _generation(said: Callable[..., Facts], spec: v1.GenerationSpec, samples: int | None) -> Facts:
    constraint = spec.constraint.WhichOneof("constraint") or ""
    given, tools, sampling = spec.WhichOneof("input"), bool(spec.tools), spec.sampling
    needs = _needs(spec, constraint)
    return said(
        session=spec.session_id,
        needs=needs,
        json=constraint in ("json_schema", "json_object"),
        chat=given == "chat",
        constrained=bool(constraint) or tools,
        choices=max(1, sampling.n),
        samples=1 if tools or sampling.n > 1 else samples,
        prompt_bytes=prompt_bytes(spec),
        images=image_count(spec) if "images" in needs else 0,
        counted_tokens=(len(spec.tokens.ids) or None) if given == "tokens" else None,
        max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
    )


def _embedding(said: Callable[..., Facts], spec: v1.EmbeddingSpec, samples: int | None) -> Facts:
    """Every input has the context to itself, so the longest stands for the prompt."""
    sizes = [input_bytes(one) for one in spec.inputs]
    counts = [len(one.tokens.ids) for one in spec.inputs]
    exact = not any(sizes)
    facts = said(
        samples=samples,
        needs=frozenset({"embeddings", "token_input"} if any(counts) else {"embeddings"}),
        chat=False,
        prompt_bytes=max([*sizes, *(count * BYTES_PER_TOKEN for count in counts)]),
        counted_tokens=max(counts) if exact else None,
    )
    return replace(facts, beside_tokens=sum(map(estimated, sizes)) + sum(counts) - facts.prompt_tokens)


def countable(spec: Spec) -> v1.GenerationSpec:
    """Return the prompt of `spec` as a target can be asked to count it: of an embedding the longest text."""
    if isinstance(spec, v1.GenerationSpec):
        return spec
    return v1.GenerationSpec(text=v1.TextPrompt(text=max(spec.inputs, key=input_bytes).text))


def recounted(spec: Spec, tokens: int) -> int:
    """Return the tokens of the longest prompt of `spec`, where `countable` has so many."""
    if isinstance(spec, v1.GenerationSpec):
        return tokens
    return max(tokens, *(len(one.tokens.ids) for one in spec.inputs))


def _needs(spec: v1.GenerationSpec, constraint: str) -> frozenset[str]:
    needs = set()
    if constraint:
        needs.add(_CONSTRAINT_NEEDS[constraint])
    match spec.WhichOneof("input"):
        case "tokens":
            needs.add("token_input")
        case "text":
            needs.update({"text_input", "suffix"} if spec.text.HasField("suffix") else {"text_input"})
        case "chat":
            for message in spec.chat.messages:
                for part in message.parts:
                    kind = part.WhichOneof("part")
                    if kind == "image":
                        needs.add("images")
                    elif kind in ("tool_call", "tool_result"):
                        needs.add("tools")
    if spec.tools:
        needs.add("tools")
    if spec.HasField("logprobs"):
        needs.update({"logprobs", "prompt_logprobs"} if spec.logprobs.HasField("prompt") else {"logprobs"})
    if spec.reasoning_effort:
        needs.add("reasoning_effort")
    if spec.adapter:
        needs.add("adapters")
    if spec.continuation.text and not spec.continuation.token_ids:
        needs.add("prefill")
    return frozenset(needs)


@lru_cache(1024)
def tell_data_policy(policy: DataPolicy) -> v1.DataPolicy:
    """Return a data policy as the contract's message, which all share who tell the same: it is not to be changed."""
    return v1.DataPolicy(
        residency=v1.Residency.ValueType(policy.residency),
        regions=sorted(policy.regions),
        sensitivity=v1.Sensitivity.ValueType(policy.sensitivity),
        max_retention_days=policy.max_retention_days,
    )


def tell_plan(plan: Plan, onward: Mapping[str, v1.Plan] | None = None) -> v1.Plan:
    """Return a plan as the contract's message, with those of the routers that are its targets, by name."""
    onward = onward or {}
    return v1.Plan(
        strategy=v1.Strategy.ValueType(plan.strategy),
        delivery=v1.DeliveryMode.ValueType(plan.delivery),
        validation=v1.Validation.ValueType(plan.validation),
        data_policy=tell_data_policy(plan.facts.data_policy),
        prompt_tokens=plan.facts.prompt_tokens,
        policy_revision=plan.policy_revision,
        reason=plan.reason,
        policy=plan.policy,
        context=tell_fit(plan.fit) if plan.fit is not None else None,
        budget=[
            v1.BudgetLeft(
                period=period.name, cap_nano_usd=period.cap, left_nano_usd=period.left, renews_s=period.renews_s
            )
            for period in (plan.facts.purse.periods if plan.facts.purse is not None else ())
        ],
        candidates=[
            v1.Candidate(
                target=candidate.target.name,
                model=candidate.target.model,
                kind=KINDS[candidate.target.kind],
                region=candidate.target.region,
                taken=candidate.taken,
                score=candidate.score if candidate.taken else None,
                reasons=candidate.reasons,
                estimated_cost_nano_usd=candidate.estimated_cost_nano_usd,
                plan=onward.get(candidate.target.name),
            )
            for candidate in (*plan.taken, *plan.left_out)
        ],
    )


def tell_fit(fit: Fit) -> v1.ContextChange:
    """Return what is done to a prompt that does not fit as the contract's message."""
    return v1.ContextChange(
        policy=v1.ContextPolicy.ValueType(fit.policy),
        tokens_before=fit.tokens_before,
        tokens_after=fit.tokens_after,
        dropped_messages=len(fit.dropped),
        dropped_tokens=fit.dropped_tokens,
        summarized_messages=len(fit.summarized),
        summarized_tokens=fit.summarized_tokens,
        kept_passages=len(fit.kept_spans),
        dropped_passages=fit.dropped_passages,
        chunks=len(fit.chunks),
    )


def tell_models(book: Rulebook) -> list[v1.Model]:
    """Return what callers can ask for: every target's model, and every alias."""
    aliases = [v1.Model(name=alias) for alias in book.document.aliases]
    return [_model(target) for target in book.declared] + aliases


def _model(target: Target) -> v1.Model:
    return v1.Model(
        name=target.model or target.name,
        target=target.name,
        kind=KINDS[target.kind],
        region=target.region,
        retention_days=target.retention_days,
        context_window=target.context_window,
        capabilities=[v1.Capability.Value(f"CAPABILITY_{name.upper()}") for name in sorted(target.capabilities)],
    )
