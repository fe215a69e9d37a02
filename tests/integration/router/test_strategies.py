"""The ways to carry out a plan besides going from target to target."""

from __future__ import annotations

import json
from contextlib import aclosing

import pytest

from services.router.breaker_settings import RetryBudgetSettings
from services.router.policy_settings import PolicySettings
from spillway import v1
from spillway.errors import AllTargetsFailed, StreamInterrupted, TargetDown
from spillway.generation import fold
from spillway.testing.faults import Cut, Garbage, Refuse, Script, Silence, SlowFirst, Stall
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, chat, json_only, json_spec, running_mesh, text

CASCADE = PolicySettings(strategy="cascade")
HEDGE = PolicySettings(strategy="hedge", hedge_after_s=0.05)
REFINE = PolicySettings(strategy="draft_refine")
VERIFY = PolicySettings(strategy="draft_verify")


async def both(mesh: Mesh, spec: v1.GenerationSpec) -> list[v1.GenerateResponse]:
    """The answer as one message and as a stream, which must be the same."""
    whole, streamed = await mesh.generate(spec), await fold(mesh.stream(spec))
    assert whole.choices[0].content.text == streamed.choices[0].content.text
    return [whole, streamed]


# Cascade


async def test_a_cascade_keeps_a_confident_local_answer() -> None:
    async with running_mesh(CASCADE) as mesh:
        mesh.local.probability = 0.9
        for answer in await both(mesh, text()):
            assert answer.started.target == "local"
            assert not answer.choices[0].content.logprobs  # only the router asked for them
        assert mesh.cloud.seen == []


async def test_a_cascade_goes_on_from_a_hesitant_answer_and_accounts_for_it() -> None:
    async with running_mesh(CASCADE) as mesh:
        mesh.local.probability = 0.7
        for answer in await both(mesh, text()):
            assert answer.started.target == "cloud"
            assert "after local was not confident" in answer.started.route_reason
        assert mesh.outcomes() == ["local:not_confident", "cloud:answered"] * 2


async def test_a_caller_may_say_how_confident_is_enough() -> None:
    async with running_mesh(CASCADE) as mesh:
        mesh.local.probability = 0.7
        answer = await mesh.generate(text(), v1.RoutingPolicy(confidence_threshold=0.6))
        assert answer.started.target == "local"


async def test_an_answer_nobody_can_vouch_for_is_not_kept_but_a_validated_one_is() -> None:
    async with running_mesh(CASCADE) as mesh:
        mesh.local.faults = Script(None, Garbage('{"a": 1}'))
        assert (await mesh.generate(text())).started.target == "cloud"
        assert (await mesh.generate(json_spec())).started.target == "local"


async def test_a_hesitant_answer_is_better_than_none_and_says_so() -> None:
    async with running_mesh(CASCADE) as mesh:
        mesh.local.probability = 0.5
        mesh.cloud.faults = Script(always=Refuse(TargetDown("gone")))
        for answer in await both(mesh, text()):
            assert answer.started.target == "local"
            assert answer.started.route_reason.startswith("degraded: not confident")


async def test_a_cascade_whose_first_target_is_silent_goes_on() -> None:
    async with running_mesh(PolicySettings(strategy="cascade", first_token_share=0.01)) as mesh:
        mesh.local.faults = Script(Silence())
        assert (await mesh.generate(text())).started.target == "cloud"


# Hedge


async def test_a_hedge_that_is_not_needed_is_not_made() -> None:
    async with running_mesh(PolicySettings(strategy="hedge", hedge_after_s=30)) as mesh:
        for answer in await both(mesh, text()):
            assert answer.started.target == "local"
        assert mesh.cloud.seen == []


async def test_when_the_first_token_is_late_the_next_target_answers_and_the_loser_is_cancelled() -> None:
    async with running_mesh(HEDGE) as mesh:
        mesh.local.faults = Script(Silence(), Silence())
        for answer in await both(mesh, text()):
            assert answer.started.target == "cloud"
            assert answer.choices[0].content.text == "from the cloud"
        await eventually(lambda: not mesh.local.running)
        assert mesh.local.cancelled == 2
        assert sorted(mesh.outcomes()) == ["cloud:answered"] * 2 + ["local:cancelled"] * 2


async def test_the_first_target_may_still_win() -> None:
    async with running_mesh(HEDGE) as mesh:
        mesh.local.first_s = 0.3
        mesh.cloud.faults = Script(Silence(), Silence())
        for answer in await both(mesh, text()):
            assert answer.started.target == "local"
        await eventually(lambda: not mesh.cloud.running)
        assert mesh.cloud.cancelled == 2


async def test_a_hedge_goes_on_at_once_when_a_target_fails() -> None:
    async with running_mesh(PolicySettings(strategy="hedge", hedge_after_s=30)) as mesh:
        mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
        for answer in await both(mesh, text()):
            assert answer.started.target == "cloud"
        mesh.cloud.faults = Script(always=Refuse(TargetDown("gone too")))
        for call in (mesh.generate(text()), fold(mesh.stream(text()))):
            with pytest.raises(AllTargetsFailed):
                await call


async def test_a_first_target_that_beats_the_hedge_is_told_as_the_first() -> None:
    async with running_mesh(HEDGE) as mesh:
        mesh.local.faults, mesh.cloud.faults = Script(always=SlowFirst(0.2)), Script(always=Silence())
        for answer in (await mesh.generate(text()), await fold(mesh.stream(text()))):
            assert (answer.started.target, len(answer.usage.attempts)) == ("local", 2)
            assert answer.started.route_reason == "local first"


async def test_a_hedge_wins_though_nobody_could_judge_the_other_answer() -> None:
    def verdict(answer: v1.Answer) -> v1.Verdict:
        if "local" in answer.text:
            raise TargetDown("the validator is away")
        return json_only(answer)

    async with running_mesh(HEDGE, verdict) as mesh:
        mesh.local.answer, mesh.local.faults = lambda spec: '{"from": "local"}', Script(SlowFirst(0.2))
        mesh.cloud.answer, mesh.cloud.faults = lambda spec: '{"from": "cloud"}', Script(SlowFirst(0.6))
        answer = await mesh.generate(json_spec())
        assert answer.started.target == "cloud"
        assert "after local failed" in answer.started.route_reason


async def test_a_hedge_over_the_budget_is_not_made_and_the_first_target_is_waited_for() -> None:
    async with running_mesh(HEDGE, retry_budget=RetryBudgetSettings(share=0, floor=1)) as mesh:
        mesh.local.first_s = 0.3
        for number in range(1, 3):
            await fold(mesh.stream(text()))
            assert (len(mesh.local.seen), len(mesh.cloud.seen)) == (number, 1)
        assert mesh.outcomes()[-1] == "local:answered"
        mesh.local.faults = Script(Refuse(TargetDown("gone")))
        assert (await mesh.generate(text())).started.target == "cloud"  # failover is not a hedge


async def test_a_hedged_stream_that_is_cut_says_so() -> None:
    async with running_mesh(HEDGE) as mesh:
        mesh.local.faults = Script(Cut(2))
        with pytest.raises(StreamInterrupted) as caught:
            await fold(mesh.stream(text()))
        assert (caught.value.metadata["last_sequence"], caught.value.metadata["tokens"]) == ("2", "2")


async def test_a_caller_that_leaves_a_hedge_ends_both_targets() -> None:
    async with running_mesh(HEDGE) as mesh:
        mesh.local.faults = Script(Silence())
        mesh.cloud.faults = Script(Stall(1))
        async with aclosing(mesh.stream(text())) as events:
            async for event in events:
                if event.HasField("delta"):
                    break
        await eventually(lambda: not mesh.local.running and not mesh.cloud.running and len(mesh.kept) == 2)


# Draft and refine


async def test_a_draft_is_refined_by_the_next_target_which_sees_it() -> None:
    async with running_mesh(REFINE) as mesh:
        for answer in await both(mesh, chat()):
            assert answer.started.target == "cloud"
            assert [attempt.target for attempt in answer.usage.attempts] == ["local", "cloud"]
        asked = mesh.cloud.seen[0].request.spec.chat.messages
        assert [message.role for message in asked] == [v1.ROLE_USER, v1.ROLE_ASSISTANT, v1.ROLE_USER]
        assert asked[1].parts[0].text == "one two three four five"


async def test_a_draft_that_cannot_be_refined_is_given_and_says_so() -> None:
    async with running_mesh(REFINE) as mesh:
        mesh.cloud.faults = Script(always=Refuse(TargetDown("gone")))
        for answer in await both(mesh, chat()):
            assert answer.started.target == "local"
            assert answer.started.route_reason.startswith("degraded: a draft that nothing refined")


async def test_without_a_draft_the_next_target_answers_by_itself() -> None:
    async with running_mesh(REFINE) as mesh:
        mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
        for answer in await both(mesh, chat()):
            assert answer.started.target == "cloud"
        assert len(mesh.cloud.seen[0].request.spec.chat.messages) == 1


# Draft and verify

DRAFT = "The sky is blue. Grass is red.\nWater is wet."


def verifier(*corrections: tuple[int, str]) -> str:
    return json.dumps({"corrections": [{"segment": number, "text": said} for number, said in corrections]})


async def test_a_verified_draft_is_corrected_segment_by_segment_and_tells_how_much_was_accepted() -> None:
    async with running_mesh(VERIFY) as mesh:
        mesh.local.answer = lambda spec: DRAFT
        mesh.cloud.answer = lambda spec: verifier((2, "Grass is green."))
        for answer in await both(mesh, chat()):
            assert answer.choices[0].content.text == "The sky is blue. Grass is green.\nWater is wet."
            told = answer.usage.verification
            assert (told.target, told.segments, told.accepted) == ("cloud", 3, 2)
            assert "cloud accepted 2 of 3 segments" in answer.started.route_reason
            assert [attempt.target for attempt in answer.usage.attempts] == ["local", "cloud"]


async def test_a_draft_that_is_right_stays_as_it_is() -> None:
    async with running_mesh(VERIFY) as mesh:
        mesh.local.answer = lambda spec: DRAFT
        mesh.cloud.answer = lambda spec: verifier()
        for answer in await both(mesh, chat()):
            assert answer.choices[0].content.text == DRAFT
            assert answer.usage.verification.accepted == 3


@pytest.mark.parametrize("said", ["it is all fine", '{"corrections": [{"segment": 9, "text": "x"}]}', "[]"])
async def test_a_verifier_that_cannot_be_understood_answers_itself(said: str) -> None:
    async with running_mesh(VERIFY) as mesh:
        mesh.cloud.answer = lambda spec: said if spec.HasField("constraint") else "by itself"
        answer = await mesh.generate(chat())
        assert answer.started.target == "cloud"
        assert answer.choices[0].content.text == "by itself"
        assert not answer.usage.HasField("verification")


async def test_a_draft_that_nothing_can_verify_is_given_and_says_so() -> None:
    async with running_mesh(VERIFY) as mesh:
        mesh.cloud.faults = Script(always=Refuse(TargetDown("gone")))
        answer = await mesh.generate(chat())
        assert answer.started.target == "local"
        assert answer.started.route_reason.startswith("degraded: a draft that nothing verified")


# What all have in common


@pytest.mark.parametrize("name", ["CASCADE", "HEDGE", "DRAFT_REFINE", "DRAFT_VERIFY"])
async def test_a_caller_may_ask_for_a_strategy_and_private_content_stays_whatever_it_is(mesh: Mesh, name: str) -> None:
    policy = v1.RoutingPolicy(strategy=v1.Strategy.Value(f"STRATEGY_{name}"))
    policy.data_policy.residency = v1.RESIDENCY_LOCAL_ONLY
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    with pytest.raises(AllTargetsFailed):
        await mesh.generate(chat(), policy)
    assert mesh.cloud.seen == []
