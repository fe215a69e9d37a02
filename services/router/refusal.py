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
from .policy import OBJECTIONS

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
            fields = [FieldViolation("spec.input", said)]
            return ContextLengthExceeded(f"spec.input: {said}", fields=fields, metadata=told)
        case "capability":
            fields = [FieldViolation(_FIELD_OF.get(need, "spec"), why) for need in sorted(facts.needs)]
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
    target = candidate.target
    return plan.facts.model in (target.name, target.called, target.model)
