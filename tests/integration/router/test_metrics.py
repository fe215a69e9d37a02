"""What a router measures, as those see it who collect it: over Prometheus' own format, and over OTLP."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from services.router.cache_settings import CacheSettings
from services.router.policy_settings import PolicySettings
from services.router.settings import RouterTelemetrySettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import NoCompliantTarget, TargetDown
from spillway.rpc.call import Call
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry import names
from spillway.telemetry.collector import Collector
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Garbage, Refuse, Script
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, json_spec, running_mesh, text

SCRAPED = RouterTelemetrySettings(metrics_listen="127.0.0.1:0")
GONE = Refuse(TargetDown("gone"))
CANARY = "canary-6e1f"


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with running_mesh(PolicySettings(max_retries_per_target=0), telemetry=SCRAPED) as found:
        yield found


class Scraped:
    """All samples of one scrape."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.samples = [sample for family in parsed(page) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Sum of the samples called `name` that have `labels`."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def bounds(self, name: str) -> Iterator[float]:
        return (float(sample.labels["le"]) for sample in self.samples if sample.name == f"{name}_bucket")


async def scrape(mesh: Mesh) -> Scraped:
    def get() -> str:
        with urllib.request.urlopen(f"http://{mesh.metrics}/metrics", timeout=5) as answer:
            page: bytes = answer.read()
            return page.decode()

    return Scraped(await asyncio.to_thread(get))


async def test_an_answer_of_the_local_target_is_a_local_dispatch(mesh: Mesh) -> None:
    await mesh.generate(text(), v1.RoutingPolicy(task=v1.TASK_EXTRACT))
    async with aclosing(mesh.stream(text())) as events:
        [event async for event in events]
    found = await scrape(mesh)
    assert found.value("local_dispatch_count_total", spillway_task="extract", spillway_target="local") == 1
    assert found.value("local_dispatch_count_total") == 2
    assert found.value("cloud_escalation_count_total") == 0
    assert found.value("spillway_router_request_duration_seconds_count", spillway_task="extract") == 1
    assert found.value("spillway_router_request_time_to_first_token_seconds_count") == 2
    assert found.value("spillway_router_tokens_total", gen_ai_token_type="output") == 10


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_leaves_after_a_local_failure_is_one_escalation(mesh: Mesh, streamed: bool) -> None:
    mesh.local.faults = Script(GONE)
    if streamed:
        async with aclosing(mesh.stream(text())) as events:
            [event async for event in events]
    else:
        await mesh.generate(text())
    await mesh.generate(text(), v1.RoutingPolicy(denied_targets=["local"]))  # goes there at once: no escalation
    found = await scrape(mesh)
    assert found.value("cloud_escalation_count_total", spillway_escalated_for="TARGET_DOWN") == 1
    assert found.value("cloud_escalation_count_total") == 1
    attempts = "spillway_router_attempts_total"
    assert found.value(attempts, spillway_target="local", spillway_outcome="failed", error_type="TARGET_DOWN") == 1
    assert found.value(attempts, spillway_where="cloud", spillway_outcome="answered") == 2


async def test_a_refused_local_answer_is_a_validation_failure_and_escalates(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Garbage("no"))
    mesh.cloud.answer = lambda spec: "{}"
    await mesh.generate(json_spec(), v1.RoutingPolicy(task=v1.TASK_EXTRACT))
    found = await scrape(mesh)
    refused = found.value("fallback_validation_failures_total", spillway_target="local", spillway_task="extract")
    assert refused == len(mesh.local.seen) > 0
    assert found.value("cloud_escalation_count_total", spillway_escalated_for="refused_by_validator") == 1


async def test_scores_are_counted_by_who_gave_them_and_a_judge_off_the_site_is_no_escalation() -> None:
    policy = PolicySettings(strategy="cascade", judge="cloud", confidence_threshold=0.6)
    async with running_mesh(policy, telemetry=SCRAPED, scores=lambda asked: 0.9 - asked.judge_score) as mesh:
        mesh.cloud.answer = lambda spec: "no" if spec.HasField("constraint") else "from the cloud"
        assert (await mesh.generate(text())).started.target == "local"
        mesh.cloud.answer = lambda spec: "yes" if spec.HasField("constraint") else "from the cloud"
        assert (await mesh.generate(text())).started.target == "cloud"
        found = await scrape(mesh)
    scores = "spillway_router_confidence_scores_total"
    assert found.value(scores, spillway_scored_by="validator") == found.value(scores) == 2
    assert found.value("cloud_escalation_count_total", spillway_escalated_for="not_confident") == 1
    assert found.value("cloud_escalation_count_total") == 1
    assert found.value("spillway_router_attempts_total", spillway_target="cloud") == 3
    assert found.value("spillway_router_request_time_to_first_token_seconds_count") == 2


async def test_the_cost_of_a_task_is_that_of_all_its_attempts_in_dollars(mesh: Mesh) -> None:
    policy = v1.RoutingPolicy(task=v1.TASK_CODE, denied_targets=["local"])
    response = await mesh.generate(text(), policy)
    await mesh.generate(text())  # the local target declares no price: unknown is not zero
    found = await scrape(mesh)
    assert found.value("cost_per_task_sum", spillway_task="code") == pytest.approx(response.usage.cost_nano_usd / 1e9)
    assert found.value("cost_per_task_count") == 1


async def test_opentelemetrys_own_names_stand_beside_ours(mesh: Mesh) -> None:
    await mesh.generate(text(), v1.RoutingPolicy(denied_targets=["local"]))
    found = await scrape(mesh)
    told = {
        "gen_ai_operation_name": "text_completion",
        "gen_ai_provider_name": "openai",
        "gen_ai_request_model": "openai/big",
        "gen_ai_response_model": "openai/big",
    }
    assert found.value("gen_ai_client_operation_duration_seconds_count", **told) == 1
    assert found.value("gen_ai_client_operation_time_to_first_chunk_seconds_count", **told) == 1
    assert found.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output", **told) == 3
    assert found.value("gen_ai_client_token_usage_sum", gen_ai_token_type="input", **told) == 2


async def test_the_buckets_of_times_are_in_seconds(mesh: Mesh) -> None:
    await mesh.generate(text())
    bounds = sorted(set((await scrape(mesh)).bounds("spillway_router_request_duration_seconds")))
    assert (bounds[0], bounds[-2]) == (0.0025, 327.68)
    assert {0.01, 0.64, 81.92} < set(bounds)


async def test_a_request_that_nothing_may_answer_is_measured_with_its_reason(mesh: Mesh) -> None:
    nobody = v1.RoutingPolicy(denied_targets=["local", "cloud"])
    with pytest.raises(NoCompliantTarget):
        await mesh.generate(text(), nobody)
    with pytest.raises(NoCompliantTarget):
        async with aclosing(mesh.stream(text(), nobody)) as events:
            await anext(events)
    found = await scrape(mesh)
    assert found.value("spillway_router_request_duration_seconds_count", error_type="NO_COMPLIANT_TARGET") == 2
    assert found.value("spillway_router_attempts_total") == 0


async def test_a_breaker_that_opens_is_counted(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=GONE)
    for _ in range(3):
        await mesh.generate(text())
    told = {"spillway_target": "local", "spillway_breaker_state": "open", "spillway_breaker_of": "transport"}
    assert (await scrape(mesh)).value("spillway_router_breaker_changes_total", **told) == 1


async def test_what_the_cache_gives_and_saves_is_counted() -> None:
    async with embedded_valkey() as url:
        cache = CacheSettings(enabled=True, store=StoreSettings(url=url))
        async with running_mesh(telemetry=SCRAPED, cache=cache) as mesh:
            policy = v1.RoutingPolicy(cache=v1.CACHE_MODE_USE, denied_targets=["local"])
            for _ in range(3):
                saved = (await mesh.generate(text(), policy)).usage.cache
            found = await scrape(mesh)
    requests = "spillway_router_cache_requests_total"
    assert found.value(requests, spillway_cache="misses") == 1
    assert found.value(requests, spillway_cache="hits") + found.value(requests, spillway_cache="shared") == 2
    assert found.value("spillway_router_cache_saved_tokens_total") == 2 * (
        saved.saved_prompt_tokens + saved.saved_completion_tokens
    )
    assert found.value("spillway_router_request_duration_seconds_count") == 3
    assert found.value("cost_per_task_count") == 1


async def test_no_word_of_a_prompt_or_an_answer_is_in_the_metrics(mesh: Mesh) -> None:
    mesh.local.answer = lambda spec: CANARY
    policy = v1.RoutingPolicy(labels=[CANARY])
    await mesh.generate(text(CANARY), policy)
    mesh.local.faults = Script(Refuse(TargetDown(CANARY)))
    await mesh.generate(text(CANARY), policy)
    assert CANARY not in (await scrape(mesh)).page


async def test_metrics_are_pushed_over_otlp_where_a_collector_is_named() -> None:
    async with Collector().serving() as collector:
        telemetry = RouterTelemetrySettings(otlp_endpoint=collector.endpoint, metrics_interval_s=0.05)
        async with running_mesh(telemetry=telemetry) as mesh:
            await mesh.generate(text())

            def pushed() -> dict[str, float]:
                last = collector.measured.last.get("router")
                metrics = [] if last is None else [metric for scope in last.scope_metrics for metric in scope.metrics]
                return {metric.name: sum(point.as_int for point in metric.sum.data_points) for metric in metrics}

            await eventually(lambda: pushed().get(names.LOCAL_DISPATCHES) == 1)
            assert mesh.metrics == ""
    assert {names.GEN_AI_DURATION, names.REQUEST_DURATION} <= set(pushed())


async def test_a_scrape_port_that_is_taken_is_an_error_at_the_start(mesh: Mesh) -> None:
    with pytest.raises(OSError, match="in use"):
        async with running_mesh(telemetry=RouterTelemetrySettings(metrics_listen=mesh.metrics)):
            pass


async def test_an_embedding_is_counted_as_one() -> None:
    engine = FakeEngine(model="small", vector=lambda one: [1.0, 0.0])
    async with running_mesh(local=engine, capabilities=["embeddings"], telemetry=SCRAPED) as mesh:
        spec = v1.EmbeddingSpec(model="local", inputs=[v1.EmbeddingInput(text="two words")])
        call = Call("test", Deadline.after(10))
        await mesh.remote.unary(mesh.stub.Embed, v1.EmbedRequest(spec=spec), call, span_name="test")
        found = await scrape(mesh)
    told = {"gen_ai_operation_name": "embeddings", "gen_ai_response_model": "small"}
    assert found.value("gen_ai_client_operation_duration_seconds_count", **told) == 1
    assert found.value("gen_ai_client_operation_time_to_first_chunk_seconds_count") == 0
    assert found.value("spillway_router_request_time_to_first_token_seconds_count") == 0
    assert found.value("spillway_router_tokens_total", gen_ai_token_type="input") == 2
    assert found.value("local_dispatch_count_total", spillway_target="local") == 1
