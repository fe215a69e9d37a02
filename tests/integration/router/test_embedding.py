"""Embeddings by plan: failover to the same model alone, residency, account, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from services.cloud_proxy.app import build as build_cloud_proxy
from services.cloud_proxy.settings import CloudProxySettings, ModelSettings, ProviderSettings
from services.router.app import build
from services.router.journal import Attempt
from services.router.policy_settings import PolicySettings, PriceSettings, TargetSettings
from services.router.router import Router
from services.router.settings import RouterSettings
from spillway import v1
from spillway.client import Client, connect
from spillway.errors import (
    AllTargetsFailed,
    ConstraintUnsupported,
    ContextLengthExceeded,
    ModelUnknown,
    NoCompliantTarget,
    RequestInvalid,
    TargetDown,
    TargetTimeout,
)
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script, Silence
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.server import LOOPBACK
from spillway.testing.vectors import vector

DOWN = Script(always=Refuse(TargetDown("gone")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def valkey() -> AsyncIterator[str]:
    async with embedded_valkey() as url:
        yield url


@dataclass
class Mesh:
    """A router before an engine that embeds, one that generates, and a cloud proxy with a simulated provider."""

    client: Client
    embedder: FakeEngine
    generator: FakeEngine
    provider: OpenAISimulator
    address: str
    kept: list[Attempt]
    router: Router

    def outcomes(self) -> list[str]:
        return [f"{attempt.target.name}:{attempt.record.reason or 'answered'}" for attempt in self.kept]


@asynccontextmanager
async def running(
    valkey: str,
    *,
    weights: str = "",
    declared: tuple[Any, ...] = ("embeddings", "token_input"),
    policy: dict[str, Any] | None = None,
) -> AsyncIterator[Mesh]:
    """`weights` are declared for both that embed; the local one is declared to be able to do `declared`."""
    embedder = FakeEngine(model="e5", vector=lambda one: vector("e5", one.text or list(one.tokens.ids)))
    generator, provider = FakeEngine(model="small"), OpenAISimulator()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving_openai(provider))
        priced = ModelSettings.model_validate(
            {
                "name": "e5",
                "capabilities": ["embeddings"],
                "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2},
            }
        )
        cloud = await stack.enter_async_context(
            build_cloud_proxy(
                CloudProxySettings(
                    server=LOOPBACK,
                    store=StoreSettings(url=valkey),
                    providers=(
                        ProviderSettings(name="openai", base_url=url, region="us", simulated=True, models=(priced,)),
                    ),
                ),
                environ={},
            )
        )
        here = await stack.enter_async_context(serving_engine(embedder))
        beside = await stack.enter_async_context(serving_engine(generator))
        settings = RouterSettings(
            server=LOOPBACK,
            targets=(
                TargetSettings(name="chat", kind="local", address=beside.address, model="small"),
                TargetSettings(
                    name="near",
                    kind="local",
                    address=here.address,
                    model="e5",
                    weights=weights,
                    context_window=40,
                    price=PriceSettings(input_usd_per_mtok=0, output_usd_per_mtok=0),
                    capabilities=frozenset(declared),
                ),
                TargetSettings(
                    name="far",
                    kind="cloud",
                    address=cloud.server.address,
                    model="openai/e5",
                    region="us",
                    weights=weights,
                    capabilities=frozenset({"embeddings"}),
                    price=PriceSettings(input_usd_per_mtok=1, output_usd_per_mtok=2),
                ),
            ),
            policy=PolicySettings.model_validate(policy or {}),
        )
        kept: list[Attempt] = []
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: kept.append(attempt)))
        client = await stack.enter_async_context(connect(app.server.address))
        yield Mesh(client, embedder, generator, provider, app.server.address, kept, app.router)


async def test_texts_are_embedded_on_the_site_and_the_answer_says_where_and_why(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        found = await mesh.client.embed(["two words", [7, 8, 9]], priority="background")
    assert [list(one) for one in found.vectors] == [
        pytest.approx(vector("e5", "two words"), abs=1e-6),
        pytest.approx(vector("e5", [7, 8, 9]), abs=1e-6),
    ]
    assert (found.target, found.model, found.route_reason) == ("near", "e5", "local first")
    assert found.usage.prompt_tokens == 5
    assert mesh.outcomes() == ["near:answered"]
    (request,) = mesh.embedder.embeds
    assert request.stamp.target == "near"
    assert request.spec.priority == v1.PRIORITY_BACKGROUND


async def test_the_same_weights_elsewhere_take_over_and_all_is_accounted(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        mesh.embedder.faults = DOWN
        found = await mesh.client.embed(["two words"])
    assert (found.target, found.model) == ("far", "e5-simulated")
    assert "after near TARGET_DOWN" in found.route_reason
    assert mesh.outcomes() == ["near:TARGET_DOWN", "near:TARGET_DOWN", "far:answered"]
    assert [attempt.left_site for attempt in found.attempts] == [False, False, True]
    assert found.usage.cost_nano_usd == 2 * 1000
    assert mesh.kept[-1].record.cost_nano_usd == 2 * 1000


async def test_vectors_say_nothing_of_how_long_a_first_token_takes(valkey: str) -> None:
    async with running(valkey) as mesh:
        await mesh.client.embed("a parcel", model="near")
        assert mesh.kept[0].record.HasField("first_token_ms")
        assert mesh.router.gate.admission.least_first_token_s == 0.0


async def test_silence_before_the_first_vector_leaves_time_for_the_next_target(valkey: str) -> None:
    async with running(valkey, weights="e5", policy={"first_token_share": 0.2}) as mesh:
        mesh.embedder.faults = Script(Silence())
        found = await mesh.client.embed("hello", deadline_s=6)
    assert found.target == "far"
    assert mesh.outcomes() == ["near:TARGET_TIMEOUT", "far:answered"]
    assert isinstance(mesh.kept[0].error, TargetTimeout)


async def test_another_model_never_takes_over(valkey: str) -> None:
    async with running(valkey) as mesh:
        mesh.embedder.faults = DOWN
        with pytest.raises(AllTargetsFailed):
            await mesh.client.embed("hello", model="e5")
        with pytest.raises(RequestInvalid) as refusal:
            await mesh.client.embed("hello")
    assert [found.field for found in refusal.value.fields] == ["spec.model"]
    assert mesh.outcomes() == ["near:TARGET_DOWN", "near:TARGET_DOWN"]
    assert mesh.provider.seen == []


async def test_another_model_takes_over_where_policy_says_so_and_the_answer_names_it(valkey: str) -> None:
    async with running(valkey, policy={"embed_with": "any_model"}) as mesh:
        near = await mesh.client.embed("hello")
        mesh.embedder.faults = DOWN
        far = await mesh.client.embed("hello")
    assert (near.model, far.model) == ("e5", "e5-simulated")


@pytest.mark.parametrize("how", [{"local_only": True}, {"sensitivity": "restricted"}], ids=["residency", "sensitivity"])
async def test_what_may_not_leave_is_embedded_here_or_not_at_all(valkey: str, how: Any) -> None:
    async with running(valkey, weights="e5") as mesh:
        assert (await mesh.client.embed("secret", **how)).target == "near"
        mesh.embedder.faults = DOWN
        with pytest.raises(AllTargetsFailed):
            await mesh.client.embed("secret", **how)
        with pytest.raises(NoCompliantTarget):
            await mesh.client.embed("secret", model="far", **how)
    assert mesh.provider.seen == []


async def test_what_generates_embeds_nothing_and_what_embeds_generates_nothing(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        with pytest.raises(ConstraintUnsupported, match="it generates, and does not embed"):
            await mesh.client.embed("hello", model="small")
        with pytest.raises(ConstraintUnsupported, match="it embeds, and generates nothing"):
            await mesh.client.generate("hello", model="e5")
        with pytest.raises(ModelUnknown):
            await mesh.client.embed("hello", model="nobody")
        assert (await mesh.client.generate("hello")).target == "chat"
    assert mesh.outcomes() == ["chat:answered"]


async def test_a_target_that_is_not_what_it_is_declared_as_is_passed_over(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        mesh.embedder.vector = None
        assert (await mesh.client.embed("hello")).target == "far"
    assert mesh.outcomes() == ["near:CONSTRAINT_UNSUPPORTED", "far:answered"]


async def test_an_answer_with_a_vector_too_few_is_a_failure(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        mesh.embedder.faults = Script(always=Cut(1))
        found = await mesh.client.embed(["one", "two"])
    assert (found.target, len(found)) == ("far", 2)


async def test_a_text_is_refused_for_its_length_by_count_not_by_guess(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        text = "incomprehensibilities " * 30  # 30 tokens here; by its bytes they would be 220
        assert (await mesh.client.embed(["a", text], local_only=True)).target == "near"
        with pytest.raises(ContextLengthExceeded) as refusal:
            await mesh.client.embed(["a", text * 2], local_only=True)
        assert (await mesh.client.embed(["a", text * 2])).target == "far"
    assert [found.field for found in refusal.value.fields] == ["spec.inputs"]


async def test_tokens_go_only_where_they_are_taken(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        with pytest.raises(ConstraintUnsupported) as refusal:
            await mesh.client.embed([[1, 2]], denied_targets=["near"])
    assert [found.field for found in refusal.value.fields] == ["spec.inputs"]


async def test_options_of_the_client_are_checked_before_anything_is_sent(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh:
        with pytest.raises(TypeError, match="did you mean 'dimensions'"):
            await mesh.client.embed("a", dimension=3)  # type: ignore[call-arg]
        with pytest.raises(RequestInvalid, match=r"inputs\[1\]"):
            await mesh.client.embed(["a", 1.5])  # type: ignore[list-item]
    assert mesh.embedder.embeds == []


async def test_a_router_embeds_for_another_and_both_accounts_are_whole(valkey: str) -> None:
    async with running(valkey, weights="e5") as mesh, AsyncExitStack() as stack:
        site = TargetSettings(
            name="site", kind="local", address=mesh.address, router=True, capabilities=frozenset({"embeddings"})
        )
        outer = await stack.enter_async_context(build(RouterSettings(server=LOOPBACK, targets=(site,))))
        client = await stack.enter_async_context(connect(outer.server.address))
        mesh.embedder.faults = DOWN
        found = await client.embed("two words", sensitivity="internal")
        with pytest.raises(AllTargetsFailed):
            await client.embed("two words", local_only=True)
    (attempt,) = found.attempts
    assert (attempt.target, attempt.model, attempt.left_site, attempt.region) == ("site", "e5-simulated", True, "us")
    assert [inner.target for inner in attempt.attempts] == ["near", "near", "far"]
    assert found.target == "site"
    assert "there" in found.route_reason
    assert len(mesh.provider.seen) == 1


async def test_what_a_budget_has_left_keeps_an_embedding_on_the_site(valkey: str) -> None:
    async with running(valkey, weights="e5", policy={"order": ["cloud", "local"], "max_cost_usd": 1e-6}) as mesh:
        assert (await mesh.client.embed("ab")).target == "far"  # about one token, for 1e-6 USD
        assert (await mesh.client.embed(["ab", "ab"])).target == "near"  # every input costs
    assert len(mesh.provider.seen) == 1


async def test_inputs_that_nobody_could_inspect_stay_on_the_site(valkey: str) -> None:
    async with running(valkey, weights="e5", policy={"order": ["cloud", "local"]}) as mesh:
        found = await mesh.client.embed(["call me"], inspect_input=True)
    assert found.target == "near"
    assert mesh.provider.seen == []
