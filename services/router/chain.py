"""A router as a target of another: what it is told, and what it says of where content went.

It decides for itself, within the stamp. The data policy in force travels, so that nothing leaves from there that may
not leave from here; so do the caller's wishes, as far as they mean the same there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spillway import v1
from spillway.errors import SpillwayError

from .facts import Validation
from .plan import Plan
from .target import Target

ITS_OWN = frozenset(
    {
        "ALL_TARGETS_FAILED",
        "CONSTRAINT_UNSUPPORTED",
        "COST_CAP",
        "MODEL_UNKNOWN",
        "NO_COMPLIANT_TARGET",
        "OUTPUT_INVALID",
        "STREAM_INTERRUPTED",
        "VALIDATOR_UNAVAILABLE",
    }
)
"""Reasons for which a router has no answer though another target may: they speak of its targets, not of the request."""
ATTEMPTS, LEFT_SITE = "attempts", "left_site"
"""In the metadata of an error told to another router: how many attempts were made, and to which regions they went."""
UNKNOWN = "unknown"
"""Region of content that a router may have sent on before it was lost."""


def wishes(policy: v1.RoutingPolicy, plan: Plan, target: Target) -> v1.RoutingPolicy | None:
    """What `target` is told of what the caller asks, None if it is no router.

    Names of targets and strategies are each router's own; a target that is denied here is denied there. A stream that
    would start again there could not be taken back here. What the caller wants inspected is inspected here, and the
    judgement policies are those of the validator here.
    """
    if not target.router:
        return None
    told = v1.RoutingPolicy()
    told.CopyFrom(policy)
    for field in (
        *("allowed_targets", "strategy", "confidence_threshold", "samples"),
        *("cache", "inspect_input", "judgements"),
    ):
        told.ClearField(field)
    # What goes there as it is must not leave so from there.
    told.redact = bool(plan.redaction.kinds) and not plan.redacts(target)
    told.delivery.mode = v1.DeliveryMode.ValueType(plan.delivery)
    told.delivery.accepts_restart = False
    told.delivery.records = plan.records
    # Judged here in any case; judged there too where that can be, so that it can try its own next target.
    judged = plan.validation is not Validation.OFF
    told.validation = v1.VALIDATION_PREFERRED if judged else v1.VALIDATION_OFF
    return told


def binding(policy: v1.RoutingPolicy) -> v1.RoutingPolicy:
    """What of a caller's wishes holds for all that is made on the way to its answer: who may see it, and the cost."""
    told = v1.RoutingPolicy(denied_targets=policy.denied_targets)
    if policy.HasField("max_cost_nano_usd"):
        told.max_cost_nano_usd = policy.max_cost_nano_usd
    return told


def account(attempts: Iterable[v1.Attempt]) -> dict[str, str]:
    """What an error tells the router before this one of the attempts made here."""
    made = list(attempts)
    return {ATTEMPTS: str(count(made)), LEFT_SITE: ", ".join(regions(made))}


def count(attempts: Iterable[v1.Attempt]) -> int:
    """Calls to models; those of a router are its own."""
    return sum(count(attempt.attempts) or 1 for attempt in attempts)


def regions(attempts: Iterable[v1.Attempt]) -> list[str]:
    """Where content went that left the site, each region once."""
    found = (region for attempt in attempts if attempt.left_site for region in attempt.region.split(", "))
    return list(dict.fromkeys(found))


def take(record: v1.Attempt, usage: v1.Usage | None, error: SpillwayError | None, *, stays: bool) -> int:
    """Write into `record` what the router did that it is about; return how many attempts that was.

    What it does not say is taken to have left, unless the content `stays`.
    """
    if usage is not None and usage.attempts:
        record.attempts.extend(usage.attempts)
        made, went = count(usage.attempts), regions(usage.attempts)
    elif error is not None and (told := _told(error.metadata)) is not None:
        made, went = told
    else:
        made, went = 1, [] if stays else [UNKNOWN]
    if record.left_site:
        went = list(dict.fromkeys([record.region, *went]))
    elif went:
        record.left_site = True
    if went:
        record.region = ", ".join(went)[:64]
    return max(1, made)


def _told(metadata: Mapping[str, str]) -> tuple[int, list[str]] | None:
    made, went = metadata.get(ATTEMPTS, ""), metadata.get(LEFT_SITE)
    if went is None or not made.isdecimal() or len(made) > 4:
        return None
    return int(made), [region for region in went.split(", ") if region]
