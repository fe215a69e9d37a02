"""The error of a plan that took no target."""

from __future__ import annotations

from spillway.errors import (
    BreakerOpen,
    ConstraintUnsupported,
    ContextLengthExceeded,
    CostCap,
    FieldViolation,
    ModelUnknown,
    NoCompliantTarget,
    SpillwayError,
    TargetDown,
)

from .plan import Candidate, Plan
from .policy import OBJECTIONS, named

_FIELD_OF = {
    "json_schema": "spec.constraint.json_schema",
    "json_object": "spec.constraint.json_object",
    "regex": "spec.constraint.regex",
    "grammar": "spec.constraint.grammar",
    "choices": "spec.constraint.choices",
    "tools": "spec.tools",
    "images": "spec.chat.messages",
    "logprobs": "spec.logprobs",
    "prompt_logprobs": "spec.logprobs.prompt",
    "reasoning_effort": "spec.reasoning_effort",
    "adapters": "spec.adapter",
    "token_input": "spec.tokens",
    "text_input": "spec.text",
    "suffix": "spec.text.suffix",
    "prefill": "spec.continuation",
}


def refusal(plan: Plan) -> SpillwayError:
    """The error of a plan that took no target: what the targets that came furthest failed at."""
    if plan.opens_in_s is not None:
        return BreakerOpen(plan.reason, retry_after_s=plan.opens_in_s)
    rules = list(OBJECTIONS)
    known = [out for out in plan.left_out if out.left_out_by in rules]
    furthest = max((rules.index(out.left_out_by) for out in known), default=0)
    facts, why = plan.facts, plan.reason
    match rules[furthest]:
        case "rpc" | "model" if any(_named(plan, out) for out in known if out.left_out_by == "rpc"):
            return ConstraintUnsupported(why, fields=[FieldViolation("spec.model", why)])
        case "rpc":
            return ConstraintUnsupported(why, fields=[FieldViolation("spec", why)])
        case "model" if not any(_named(plan, out) for out in known if out.left_out_by == "data_policy"):
            return ModelUnknown(
                f"spec.model: {facts.model!r} is served by no target that may answer; {why}", resource=facts.model
            )
        case "context":
            said = f"the prompt has {facts.prompt_tokens} tokens and fits no target that may answer; {why}"
            told = {"prompt_tokens": str(facts.prompt_tokens)}
            if helping := ", ".join(name.name.lower() for name in plan.would_help):
                said += f"; context_policy {helping} would make it fit"
                told["context_policies"] = helping
            field = "spec.inputs" if facts.embeds else "spec.input"
            return ContextLengthExceeded(f"{field}: {said}", fields=[FieldViolation(field, said)], metadata=told)
        case "capability":
            fields_of = {**_FIELD_OF, "token_input": "spec.inputs"} if facts.embeds else _FIELD_OF
            needs = sorted(facts.needs - {"embeddings"})
            fields = [FieldViolation(fields_of.get(need, "spec"), why) for need in needs]
            return ConstraintUnsupported(why, fields=fields)
        case "cost":
            return CostCap(why)
        case "address":
            return TargetDown(why)
        case "budget" if facts.purse is not None:
            costs = [out.estimated_cost_nano_usd for out in known if out.left_out_by == "budget"]
            least = min((cost for cost in costs if cost is not None), default=None)
            return CostCap(why, retry_after_s=facts.purse.renews_s(least), metadata=facts.purse.told())
        case "budget":
            return CostCap(why)
        case _:
            return NoCompliantTarget(why)


def _named(plan: Plan, candidate: Candidate) -> bool:
    return named(plan.facts, candidate.target)
