"""What is cut to fit, and where it may then be answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.router.facts import ContextName
from services.router.fitter import Fitter
from services.router.inspection import Inspection
from services.router.policy_document import opened
from services.router.policy_settings import PolicyDocument
from services.router.reading import read_facts
from spillway import v1
from spillway.egress import DataPolicy

TARGETS = [
    {"name": "local", "kind": "local", "address": "a:1", "context_window": 900},
    {"name": "cloud", "kind": "cloud", "address": "b:1", "region": "us", "context_window": 1200},
]


def conversation() -> v1.GenerationSpec:
    turns = [f"turn {turn}: " + "Some words. " * 100 for turn in range(9)]
    messages = [
        v1.Message(role=v1.ROLE_ASSISTANT if turn % 2 else v1.ROLE_USER, parts=[v1.Part(text=text)])
        for turn, text in enumerate(turns)
    ]
    messages[-1].parts[0].text = "What is this about? " + "One more word. " * 400
    messages[-1].parts.add().text = "What is this about?"
    return v1.GenerationSpec(chat=v1.Chat(messages=messages), sampling=v1.Sampling(max_tokens=64))


async def uncounted(spec: v1.GenerationSpec) -> int | None:
    return None


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize("context", [ContextName.PASSAGES, ContextName.MAP_REDUCE])
async def test_a_text_that_is_cut_does_not_leave_redacted(context: ContextName, redact: bool) -> None:
    """Half of something sensitive is not found any more."""
    spec = conversation()
    del spec.chat.messages[:-1]
    document = PolicyDocument.model_validate({"targets": TARGETS, "policy": {"order": ["cloud", "local"]}})
    rules = opened(document).in_force("")
    asked = v1.RoutingPolicy(redact=redact, context_policy=v1.ContextPolicy.ValueType(context))
    said = replace(read_facts(spec, asked, DataPolicy(), "t"), inspection=Inspection(raises=False))
    facts, policy = rules.read(said)
    refused = policy.decide(facts, rules.targets)
    assert not refused.taken
    plan = await Fitter(policy, rules.targets, {}, 0.0, uncounted, {}, 0.0).fitted(spec, refused)
    assert plan.fit is not None and plan.fit.policy is context
    names = {candidate.target.name for candidate in plan.taken}
    readers = {candidate.target.name for candidate in plan.readers.taken} if plan.readers is not None else set()
    assert ("cloud" in names | readers) is not redact, plan.reason
