"""Prompts that are inspected before a target is chosen: what is found stays, and so does what nobody could inspect."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from openai import AsyncOpenAI
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.admission_settings import AdmissionSettings
from services.router.cache_settings import CacheSettings
from services.router.http.settings import HttpSettings
from services.router.policy_settings import PolicySettings
from services.router.settings import RouterTelemetrySettings
from spillway import v1
from spillway.errors import AllTargetsFailed, Internal, NoCompliantTarget, TargetDown
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Refuse, Script
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, running_mesh, text
from tests.integration.router.test_explain import explain
from tests.integration.router.test_metrics import scrape

INSPECTED = v1.RoutingPolicy(inspect_input=True)
CLOUD_FIRST = PolicySettings(order=("cloud", "local"), inspect=True)
CLEAN, PRIVATE = "what is the weather", "write to ann@example.org"
GONE = Refuse(TargetDown("gone"))


async def broken(prompt: str) -> list[str]:
    raise Internal("a defect")


async def test_what_is_found_keeps_a_prompt_on_the_site_and_a_clean_one_may_leave() -> None:
    async with running_mesh(CLOUD_FIRST) as mesh:
        clean, private = await mesh.generate(text(CLEAN)), await mesh.generate(text(PRIVATE))
        assert clean.started.target == "cloud"
        assert private.started.target == "local"
        assert private.started.route_reason.endswith("; inspection found email")
        assert "inspection" not in clean.started.route_reason
        stamps = [seen.request.stamp.data_policy.sensitivity for seen in (*mesh.cloud.seen, *mesh.local.seen)]
        assert stamps == [v1.SENSITIVITY_INTERNAL, v1.SENSITIVITY_CONFIDENTIAL]
        assert [list(request.texts) for request in mesh.inspected] == [[CLEAN], [PRIVATE]]


async def test_a_caller_may_ask_for_an_inspection(mesh: Mesh) -> None:
    policy = v1.RoutingPolicy(denied_targets=["local"])
    assert (await mesh.generate(text(PRIVATE), policy)).started.target == "cloud"
    assert mesh.inspected == []
    policy.inspect_input = True
    with pytest.raises(NoCompliantTarget, match="inspection found email") as refused:
        await mesh.generate(text(PRIVATE), policy)
    assert "ann" not in repr(refused.value)
    assert len(mesh.cloud.seen) == 1


async def test_a_caller_may_ask_for_an_inspection_over_http() -> None:
    async with running_mesh(PolicySettings(order=("cloud", "local")), http=HttpSettings(listen="127.0.0.1:0")) as mesh:
        async with AsyncOpenAI(api_key="none", base_url=f"http://{mesh.http}/v1", max_retries=0) as client:
            for headers in ({}, {"x-spillway-inspect": "true"}):
                await client.chat.completions.create(
                    model="auto", messages=[{"role": "user", "content": PRIVATE}], extra_headers=headers
                )
        assert (len(mesh.cloud.seen), len(mesh.local.seen), len(mesh.inspected)) == (1, 1, 1)


async def test_explain_says_what_was_found_in_kinds_and_never_in_words(mesh: Mesh) -> None:
    plan = await explain(mesh, text(PRIVATE), INSPECTED)
    assert plan.reason == "inspection found email; local: local first"
    assert plan.data_policy.sensitivity == v1.SENSITIVITY_CONFIDENTIAL
    assert [candidate.target for candidate in plan.candidates if candidate.taken] == ["local"]
    assert "ann" not in str(plan)


async def test_what_is_restricted_or_stays_anyway_is_not_inspected() -> None:
    async with running_mesh(CLOUD_FIRST) as mesh:
        for data_policy in (
            v1.DataPolicy(sensitivity=v1.SENSITIVITY_RESTRICTED),
            v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY),
        ):
            await mesh.generate(text(PRIVATE), v1.RoutingPolicy(data_policy=data_policy))
        assert mesh.inspected == []
        assert mesh.cloud.seen == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_without_the_validator_what_needed_inspection_is_answered_on_the_site(streamed: bool) -> None:
    async with running_mesh(CLOUD_FIRST, verdict=None) as mesh:
        if streamed:
            async with aclosing(mesh.stream(text(CLEAN))) as events:
                started = (await anext(events)).started
        else:
            started = (await mesh.generate(text(CLEAN))).started
        assert started.target == "local"
        assert started.route_reason.endswith("; not inspected: this router has no validator")
        stamp = mesh.local.seen[0].request.stamp.data_policy
        assert stamp.residency == v1.RESIDENCY_LOCAL_ONLY
        assert stamp.sensitivity == v1.SENSITIVITY_RESTRICTED
        mesh.local.faults = Script(always=GONE)
        with pytest.raises(AllTargetsFailed):
            await mesh.generate(text(CLEAN))
        assert mesh.cloud.seen == []


async def test_without_the_validator_nothing_leaves_even_where_the_cloud_is_trusted_with_everything() -> None:
    trusting = PolicySettings(order=("cloud", "local"), inspect=True, cloud_sensitivity_limit="restricted")
    async with running_mesh(trusting, validator_address="127.0.0.1:1") as mesh:
        response = await mesh.generate(text(CLEAN))
        assert response.started.target == "local"
        assert response.started.route_reason.endswith("; not inspected: the validator did not answer (TARGET_DOWN)")


async def test_a_validator_that_is_slow_is_waited_for_shortly_and_one_that_fails_is_one_that_is_away() -> None:
    async def never(prompt: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    for finds, timeout_s, reason in ((never, 0.2, "EXPIRED"), (broken, 30.0, "INTERNAL")):
        async with running_mesh(CLOUD_FIRST, finds=finds, inspect_timeout_s=timeout_s) as mesh:
            response = await mesh.generate(text(CLEAN), deadline_s=60)
            assert response.started.target == "local"
            assert response.started.route_reason.endswith(f"; not inspected: the validator did not answer ({reason})")


async def test_what_nobody_can_read_is_most_sensitive_and_the_validator_is_not_asked() -> None:
    capabilities = ["text_input", "token_input", "images"]
    async with running_mesh(CLOUD_FIRST, capabilities=capabilities) as mesh:
        image = v1.Part(image=v1.Image(url="https://example.org/x.png"))
        for spec in (
            v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1, 2])),
            v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[image])])),
        ):
            await mesh.generate(spec)
        assert mesh.inspected == []
        assert mesh.cloud.seen == []
        assert {seen.request.stamp.data_policy.sensitivity for seen in mesh.local.seen} == {v1.SENSITIVITY_RESTRICTED}


async def test_a_wait_in_the_queue_and_a_fallback_inspect_nothing_again() -> None:
    slow = FakeEngine(model="small", first_s=0.05)
    admission = AdmissionSettings(max_running=1)
    async with running_mesh(CLOUD_FIRST, local=slow, admission=admission) as mesh:
        waiting = [asyncio.create_task(mesh.generate(text(f"{PRIVATE} {number}"))) for number in range(3)]
        answers = await asyncio.gather(*waiting)
        assert [answer.started.target for answer in answers] == ["local"] * 3
        assert all("inspection found email" in answer.started.route_reason for answer in answers)
        assert len(mesh.inspected) == 3
        mesh.cloud.faults = Script(always=GONE)
        fallen = await mesh.generate(text(CLEAN))
        assert fallen.started.target == "local"
        assert len(mesh.inspected) == 4
        sensitivities = {seen.request.stamp.data_policy.sensitivity for seen in mesh.local.seen[:3]}
        assert sensitivities == {v1.SENSITIVITY_CONFIDENTIAL}


async def test_a_prompt_that_is_made_to_fit_keeps_what_was_found() -> None:
    long = v1.Chat(
        messages=[
            v1.Message(role=v1.ROLE_ASSISTANT if turn % 2 else v1.ROLE_USER, parts=[v1.Part(text="word " * 600)])
            for turn in range(8)
        ]
    )
    long.messages.add(role=v1.ROLE_USER, parts=[v1.Part(text=PRIVATE)])
    for context in ("slide", "summarize"):
        policy = PolicySettings(order=("cloud", "local"), inspect=True, context=context)
        async with running_mesh(policy) as mesh:
            response = await mesh.generate(v1.GenerationSpec(chat=long))
            assert response.usage.HasField("context")
            assert response.started.target == "local"
            assert mesh.cloud.seen == []
            assert len(mesh.inspected) == 1
            stamps = {seen.request.stamp.data_policy.sensitivity for seen in mesh.local.seen}
            assert stamps == {v1.SENSITIVITY_CONFIDENTIAL}


async def test_a_rule_that_a_count_chooses_can_ask_for_an_inspection() -> None:
    rule = {"name": "many words", "when": {"prompt_tokens_over": 1000}, "use": "inspected"}
    document = {"policies": {"inspected": {"inspect": True, "order": ["cloud", "local"]}}, "rules": [rule]}
    async with running_mesh(document=document) as mesh:
        long = await explain(mesh, text(f"{'x ' * 1500} {PRIVATE}"))  # by its bytes about 1,000 tokens, 1,500 counted
        assert long.reason.startswith("policy inspected by rule 'many words'; inspection found email; ")
        await mesh.generate(text(PRIVATE))
        assert len(mesh.inspected) == 1


async def test_an_answer_to_a_prompt_in_which_something_was_found_is_not_kept() -> None:
    async with embedded_valkey() as url:
        cache = CacheSettings(enabled=True, by_default=True, store=StoreSettings(url=url), sensitive_ttl_s=None)
        async with running_mesh(CLOUD_FIRST, cache=cache) as mesh:
            for prompt in (CLEAN, PRIVATE):
                for _ in range(2):
                    spec = text(prompt)
                    spec.sampling.temperature = 0
                    await mesh.generate(spec)
                    assert mesh.cache is not None
                    await eventually(lambda: mesh.cache is not None and not mesh.cache.waiting)
            assert (len(mesh.cloud.seen), len(mesh.local.seen)) == (1, 2)


async def test_inspections_are_counted_by_what_came_of_them() -> None:
    telemetry = RouterTelemetrySettings(metrics_listen="127.0.0.1:0")
    async with running_mesh(CLOUD_FIRST, capabilities=["text_input", "token_input"], telemetry=telemetry) as mesh:
        for spec in (text(CLEAN), text(CLEAN), text(PRIVATE), v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1]))):
            await mesh.generate(spec)
        found = await scrape(mesh)
    name = "spillway_router_inspections_total"
    counts = {result: found.value(name, spillway_inspection=result) for result in ("clean", "found", "unreadable")}
    assert counts == {"clean": 2, "found": 1, "unreadable": 1}


async def test_an_inspection_has_a_span_under_the_decision_and_no_span_holds_the_prompt() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)
    async with running_mesh(CLOUD_FIRST, tracing=tracing) as mesh:
        await mesh.generate(text(PRIVATE))
        tracing.flush()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    inspect, decide = spans[names.INSPECT], spans[names.DECIDE]
    assert inspect.parent is not None and decide.context is not None
    assert inspect.parent.span_id == decide.context.span_id
    assert "inspection found email" in str((decide.attributes or {})[names.ROUTE_REASON])
    assert "ann" not in str([dict(span.attributes or {}) for span in spans.values()])
