"""What the end of an attempt says about its target."""

from __future__ import annotations

import pytest

from services.router.journal import Attempt
from services.router.observation import Observation, kind_of_spec, kind_of_work, observe
from services.router.outcome import TABLE, Outcome
from services.router.target import Target
from spillway import errors, v1
from spillway.errors import BY_REASON, SpillwayError

TARGET = Target("local", "local", "127.0.0.1:1", first_token_floor_s=1.0)
OURS = {"limit": "tokens_per_minute"}


def ended(
    outcome: v1.AttemptOutcome.ValueType, error: SpillwayError | None = None, *, duration_s: float = 5.0
) -> Observation:
    record = v1.Attempt(outcome=outcome, reason=error.reason if error else "", duration_ms=duration_s * 1000)
    return observe(Attempt(TARGET, 1, 7.0, record, settled=True), error)


def failed(error: SpillwayError, *, duration_s: float = 5.0) -> Observation:
    return ended(v1.ATTEMPT_OUTCOME_FAILED, error, duration_s=duration_s)


def test_every_reason_of_the_error_tree_says_something_known() -> None:
    assert set(TABLE) == set(BY_REASON)


def test_no_error_that_ends_a_request_everywhere_counts_against_a_target_unless_the_target_made_it() -> None:
    final = {reason for reason, error in BY_REASON.items() if not error.elsewhere}
    counted = {reason for reason in final if TABLE[reason] in (Outcome.DOWN, Outcome.FAILED)}
    assert counted == {"ALL_TARGETS_FAILED", "STREAM_INTERRUPTED", "INTERNAL"}


def test_an_accepted_answer_counts_for_both_and_a_refused_one_against_quality_alone() -> None:
    assert ended(v1.ATTEMPT_OUTCOME_ANSWERED) == Observation(Outcome.ANSWERED, 7.0, accepted=True)
    refused = Observation(Outcome.REFUSED, 7.0, accepted=False)
    assert ended(v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR) == refused
    assert failed(errors.OutputInvalid()) == refused


def test_a_cancelled_attempt_says_nothing() -> None:
    assert ended(v1.ATTEMPT_OUTCOME_CANCELLED) == Observation(Outcome.NEUTRAL, 7.0)


def test_an_answer_that_could_not_be_judged_is_the_validators_failure() -> None:
    assert ended(v1.ATTEMPT_OUTCOME_FAILED) == Observation(Outcome.ANSWERED, 7.0)


def test_silence_shorter_than_the_targets_floor_is_the_callers_haste() -> None:
    assert failed(errors.TargetTimeout(), duration_s=0.2).outcome is Outcome.NEUTRAL
    assert failed(errors.TargetTimeout(), duration_s=1.0).outcome is Outcome.DOWN


@pytest.mark.parametrize(
    ("error", "heeded_s"),
    [
        (errors.ProviderRateLimited(retry_after_s=9, metadata={"http_status": "429"}), 9),
        (errors.ProviderRateLimited(retry_after_s=9, metadata={"limit": "closed_by_provider"}), 9),
        (errors.ProviderRateLimited(retry_after_s=9, metadata=OURS), None),
        (errors.ProviderError(retry_after_s=9), 9),
        (errors.QueueFull(retry_after_s=9), 9),
        (errors.ProviderError(), None),
    ],
)
def test_a_retry_after_is_heeded_unless_our_own_limit_held_one_request(
    error: SpillwayError, heeded_s: float | None
) -> None:
    assert failed(error).retry_after_s == heeded_s


def test_the_kind_of_work_is_the_task_or_the_constraints_digest() -> None:
    def of(constraint: v1.OutputConstraint) -> str:
        return kind_of_work("extract", constraint)

    schema = of(v1.OutputConstraint(json_schema="{}"))
    assert schema == of(v1.OutputConstraint(json_schema="{}", enforcement=v1.ENFORCEMENT_GUIDED))
    others = [
        of(v1.OutputConstraint()),
        of(v1.OutputConstraint(json_object=True)),
        of(v1.OutputConstraint(json_schema="[]")),
        of(v1.OutputConstraint(json_schema="{}", schemas={"urn:a": "{}"})),
        of(v1.OutputConstraint(regex="{}")),
        of(v1.OutputConstraint(grammar="{}")),
        of(v1.OutputConstraint(choices=v1.Choices(values=["a", "b"]))),
        of(v1.OutputConstraint(choices=v1.Choices(values=["a"]))),
    ]
    assert others[:2] == ["extract", "json_object extract"]
    assert len({schema, *others}) == 9


def test_work_that_is_held_to_judgements_is_of_a_kind_of_its_own() -> None:
    spec = v1.GenerationSpec()
    kinds = [kind_of_spec("chat", spec, judgements) for judgements in ((), ("brief",), ("brief", "polite"))]
    assert kinds[0] == "chat"
    assert len(set(kinds)) == 3
    assert kind_of_spec("chat", v1.EmbeddingSpec(), ("brief",)) == ""
