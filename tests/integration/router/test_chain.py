"""Two routers in a chain: an outer one, whose target `edge` is an inner one, before fake engines on real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.app import build
from services.router.journal import Attempt
from services.router.policy_settings import PolicySettings, PriceSettings, TargetSettings
from services.router.settings import RouterSettings, ValidatorSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import AllTargetsFailed, NoCompliantTarget, RequestInvalid, SpillwayError, TargetDown
from spillway.generation import Folder
from spillway.rpc import metadata
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script, Silence
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import (
    CAPABILITIES,
    FakeValidator,
    Mesh,
    chat,
    emails,
    json_only,
    serving_validator,
    text,
)

GONE = Refuse(TargetDown("gone"))
LIVE = v1.DELIVERY_MODE_LIVE
LOCAL_ONLY = v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY)
PRICE = PriceSettings(input_usd_per_mtok=1, output_usd_per_mtok=2)


@dataclass
class Chain:
    """`site` is the inner router's local engine, `away` its cloud (region us), `spare` the outer router's second."""

    mesh: Mesh
    site: FakeEngine
    away: FakeEngine
    spare: FakeEngine
    inner_kept: list[Attempt]
    spans: InMemorySpanExporter
    flush: Callable[[], None]
    kept: list[Attempt] = field(default_factory=list)

    def counts(self) -> tuple[int, int, int]:
        """Requests that came to site, away and spare."""
        return len(self.site.seen), len(self.away.seen), len(self.spare.seen)


def asked_once(policy: PolicySettings) -> PolicySettings:
    """The policy without second tries, so that one scripted failure is one."""
    return policy.model_copy(update={"max_retries_per_target": 0})


@asynccontextmanager
async def chained(
    outer: PolicySettings | None = None,
    inner: PolicySettings | None = None,
    kind: Any = "local",
    outer_validator: FakeValidator | None = None,
    inner_validator: FakeValidator | None = None,
    weights: str = "",
) -> AsyncIterator[Chain]:
    """`weights`: those of site, and of `twin`, by which the inner router reaches the spare engine."""
    site, away = FakeEngine(model="small"), FakeEngine(model="openai/big", answer=lambda spec: "from the cloud")
    spare = FakeEngine(model="spare", answer=lambda spec: "from the spare one")
    spans = InMemorySpanExporter()
    async with AsyncExitStack() as stack:
        places = [(await stack.enter_async_context(serving_engine(engine))).address for engine in (site, away, spare)]
        tracings = [Tracing(name, exporter=spans) for name in ("outer", "inner", "caller")]
        validators = [
            ValidatorSettings(address=await stack.enter_async_context(serving_validator(each))) if each else None
            for each in (outer_validator, inner_validator)
        ]
        inner_kept: list[Attempt] = []
        behind = await stack.enter_async_context(
            build(
                RouterSettings(
                    server=LOOPBACK,
                    name="inner",
                    targets=(
                        target("site", "local", places[0], weights=weights),
                        *([target("twin", "local", places[2], weights=weights)] if weights else []),
                        target("away", "cloud", places[1], region="us", price=PRICE),
                    ),
                    policy=asked_once(inner or PolicySettings()),
                    validator=validators[1],
                ),
                keep=lambda attempt, call: inner_kept.append(attempt),
                tracing=tracings[1],
            )
        )
        kept: list[Attempt] = []
        before = await stack.enter_async_context(
            build(
                RouterSettings(
                    server=LOOPBACK,
                    name="outer",
                    targets=(
                        target(
                            "edge",
                            kind,
                            behind.server.address,
                            router=True,
                            region="de",
                            price=PRICE,
                            first_token_floor_s=0.1,
                        ),
                        target("spare", "local", places[2], tier="large"),
                    ),
                    policy=asked_once(outer or PolicySettings(order=("edge", "spare"))),
                    validator=validators[0],
                ),
                keep=lambda attempt, call: kept.append(attempt),
                tracing=tracings[0],
            )
        )
        remote = Remote(before.server.address, tracing=tracings[2])
        stack.push_async_callback(remote.close)
        mesh = Mesh(site, away, before.server.address, remote, kept)

        def flush() -> None:
            for tracing in tracings:
                tracing.flush()

        yield Chain(mesh, site, away, spare, inner_kept, spans, flush, kept)


def target(name: str, kind: Any, address: str, **more: Any) -> TargetSettings:
    return TargetSettings(name=name, kind=kind, address=address, capabilities=CAPABILITIES, **more)


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with chained() as found:
        yield found


async def explained(mesh: Mesh, policy: v1.RoutingPolicy | None = None) -> v1.Plan:
    request = v1.ExplainRouteRequest(spec=text(), policy=policy)
    told: v1.ExplainRouteResponse = await mesh.remote.unary(
        mesh.routes.ExplainRoute, request, Call("r", Deadline.after(5)), span_name="t"
    )
    return told.plan


async def test_a_router_answers_by_another_whole_and_as_a_stream_and_both_say_why(chain: Chain) -> None:
    response = await chain.mesh.generate(text())
    assert (response.started.target, response.started.model) == ("edge", "small")
    assert response.started.route_reason == "place 1 in the order of policy ground; there local first"
    said = "".join([event.delta.text async for event in chain.mesh.stream(text())])
    assert said == response.choices[0].content.text == "one two three four five"


async def test_a_request_over_two_routers_is_one_trace(chain: Chain) -> None:
    await chain.mesh.generate(text())
    chain.flush()
    spans = chain.spans.get_finished_spans()
    assert len({span.context.trace_id for span in spans if span.context is not None}) == 1
    by_id = {span.context.span_id: span for span in spans if span.context is not None}
    attempts = [span for span in spans if span.name == names.ATTEMPT]
    assert {(span.attributes or {})[names.TARGET] for span in attempts} == {"edge", "site"}
    (to_site,) = [span for span in attempts if (span.attributes or {})[names.TARGET] == "site"]
    served = by_id[to_site.parent.span_id] if to_site.parent is not None else None
    assert served is not None
    assert served.parent is not None
    assert (by_id[served.parent.span_id].attributes or {})[names.TARGET] == "edge"


async def test_what_is_left_of_the_deadline_travels_over_both_routers(chain: Chain) -> None:
    await chain.mesh.generate(text(), deadline_s=7.0)
    (seen,) = chain.site.seen
    assert seen.deadline.left() <= 7.0
    assert seen.call.hop == 2


async def test_local_only_content_stays_though_the_inner_router_would_let_it_go(chain: Chain) -> None:
    chain.site.faults = Script(always=GONE)
    chain.spare.faults = Script(always=GONE)
    assert (await chain.mesh.generate(text())).usage.attempts[0].left_site
    with pytest.raises(AllTargetsFailed):
        await chain.mesh.generate(text(), v1.RoutingPolicy(data_policy=LOCAL_ONLY))
    assert len(chain.away.seen) == 1
    assert [attempt.record.left_site for attempt in chain.kept[1:]] == [False, False]


async def test_what_is_too_sensitive_to_leave_here_does_not_leave_there(chain: Chain) -> None:
    confidential = v1.RoutingPolicy(data_policy=v1.DataPolicy(sensitivity=v1.SENSITIVITY_CONFIDENTIAL))
    async with chained(inner=PolicySettings(cloud_sensitivity_limit="restricted")) as trusting:
        trusting.site.faults = Script(always=GONE)
        assert (await trusting.mesh.generate(text(), confidential)).started.target == "spare"
        assert not trusting.away.seen
        stamp = trusting.site.seen[0].request.stamp
        assert stamp.data_policy.residency == v1.RESIDENCY_LOCAL_ONLY


async def test_the_attempts_of_both_are_in_the_answer_and_cost_is_counted_once(chain: Chain) -> None:
    chain.site.faults = Script(GONE)
    usage = (await chain.mesh.generate(text())).usage
    (outer,) = usage.attempts
    assert [(attempt.target, attempt.reason) for attempt in outer.attempts] == [("site", "TARGET_DOWN"), ("away", "")]
    (away,) = [attempt.record for attempt in chain.inner_kept if attempt.target.name == "away"]
    assert away.cost_nano_usd > 0
    assert usage.cost_nano_usd == outer.cost_nano_usd == outer.attempts[1].cost_nano_usd == away.cost_nano_usd


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_local_router_that_spills_is_not_accounted_as_local(chain: Chain, streamed: bool) -> None:
    chain.site.faults = Script(GONE)
    if streamed:
        events = [event async for event in chain.mesh.stream(text())]
        assert events[-1].usage.attempts[0].left_site
    else:
        await chain.mesh.generate(text())
    await chain.mesh.generate(text())
    spilled, stayed = [attempt.record for attempt in chain.kept]
    assert (spilled.left_site, spilled.region) == (True, "us")
    assert (stayed.left_site, stayed.region) == (False, "de")


async def test_a_router_that_failed_says_where_content_went_and_the_next_target_answers(chain: Chain) -> None:
    chain.site.faults = chain.away.faults = Script(always=GONE)
    assert (await chain.mesh.generate(text())).started.target == "spare"
    record = chain.kept[0].record
    assert (record.reason, record.left_site, record.region) == ("ALL_TARGETS_FAILED", True, "us")
    assert chain.kept[0].took == 2


async def test_content_of_a_router_that_was_lost_is_taken_to_have_left_unless_it_may_not(chain: Chain) -> None:
    chain.site.faults = Script(Silence(), Silence())
    with pytest.raises(SpillwayError):
        await chain.mesh.generate(text(), v1.RoutingPolicy(failover=v1.FAILOVER_OFF), deadline_s=0.2)
    policy = v1.RoutingPolicy(failover=v1.FAILOVER_OFF, data_policy=LOCAL_ONLY)
    with pytest.raises(SpillwayError):
        await chain.mesh.generate(text(), policy, deadline_s=0.2)
    await eventually(lambda: len(chain.kept) == 2)
    unknown, known = [attempt.record for attempt in chain.kept]
    assert (unknown.left_site, unknown.region) == (True, "unknown")
    assert (known.left_site, known.region) == (False, "de")


async def test_a_request_that_suits_no_target_of_the_inner_router_goes_to_the_next_one_here(chain: Chain) -> None:
    policy = v1.RoutingPolicy(data_policy=LOCAL_ONLY, denied_targets=["site"])
    assert (await chain.mesh.generate(text(), policy)).started.target == "spare"
    assert chain.kept[0].record.reason == "NO_COMPLIANT_TARGET"
    assert chain.counts() == (0, 0, 1)


async def test_attempts_left_travel_so_that_two_routers_do_not_multiply_theirs() -> None:
    async with chained(outer=PolicySettings(order=("edge", "spare"), max_attempts=2)) as found:
        found.site.faults = found.away.faults = Script(always=GONE)
        with pytest.raises(AllTargetsFailed, match="no attempt is left"):
            await found.mesh.generate(text())
        assert found.counts() == (1, 1, 0)
        assert found.site.seen[0].call.attempts_left == 2
    async with chained(outer=PolicySettings(order=("edge", "spare"), max_attempts=1)) as found:
        found.site.faults = Script(always=GONE)
        with pytest.raises(AllTargetsFailed):
            await found.mesh.generate(text())
        assert found.counts() == (1, 0, 0)


async def test_a_cut_stream_of_an_inner_router_starts_again_here_if_the_caller_accepts_that(chain: Chain) -> None:
    chain.site.faults = Script(Cut(after=2))
    policy = v1.RoutingPolicy(delivery=v1.Delivery(mode=v1.DELIVERY_MODE_LIVE, accepts_restart=True))
    said = ""
    async for event in chain.mesh.stream(text(), policy):
        said = "" if event.HasField("route_changed") else said + event.delta.text
    assert said == "from the spare one"


@pytest.mark.parametrize("mode", [v1.DELIVERY_MODE_LIVE, v1.DELIVERY_MODE_PROBED])
async def test_a_stream_that_goes_on_behind_the_inner_router_says_so_here(mode: v1.DeliveryMode.ValueType) -> None:
    outer, inner = PolicySettings(order=("edge",), probe_tokens=3), PolicySettings(probe_tokens=1)
    async with chained(outer, inner, weights="w") as found:
        found.spare.answer = found.site.answer
        found.site.interval_s = 0.05  # so that tokens are not merged into one delta
        found.site.faults = Script(Cut(after=2))
        folder, changes = Folder(), []
        async for event in found.mesh.stream(text(), v1.RoutingPolicy(delivery=v1.Delivery(mode=mode))):
            folder.add(event)  # raises where the sequence has a gap
            if event.HasField("route_changed"):
                changes.append(event.route_changed)
        assert folder.whole().choices[0].content.text == "one two three four five"
        (change,) = changes
        told = (change.from_target, change.to_target, change.resumed_after_tokens, change.reason)
        assert told == ("site", "twin", 2, "TARGET_DOWN")
        assert [attempt.target.name for attempt in found.kept] == ["edge"]


async def test_another_model_that_goes_on_at_an_inner_router_is_named_here_too() -> None:
    async with chained(inner=PolicySettings(continue_on="any_model")) as found:
        found.site.faults = Script(Cut(after=2))
        found.away.answer = found.site.answer
        said, changes, sequence = "", [], 0
        async for event in found.mesh.stream(chat()):
            assert event.sequence == sequence
            sequence += 1
            said += event.delta.text
            if event.HasField("route_changed"):
                changes.append(event.route_changed)
        assert said == "one two three four five"
        assert [(change.to_target, change.resumed_after_tokens) for change in changes] == [("away", 2)]
        assert changes[0].reason.endswith("another model goes on: openai/big")


async def test_where_an_inner_router_goes_on_is_told_in_tokens_of_the_callers() -> None:
    any_model = PolicySettings(continue_on="any_model")
    async with chained(any_model.model_copy(update={"order": ("spare", "edge")}), any_model) as found:
        whole = "Your parcel left Berlin on Monday, passed Hamburg on Tuesday, and will come on Wednesday."
        found.spare.answer = lambda spec: whole
        found.spare.faults = Script(Cut(after=8))
        found.site.answer = found.away.answer = lambda spec: whole.removeprefix("Your parcel left Berlin ")
        found.site.interval_s = 0.01  # so that tokens are not merged into one delta
        found.site.faults = Script(Cut(after=7))
        folder, changes = Folder(), []
        async for event in found.mesh.stream(chat(), v1.RoutingPolicy(delivery=v1.Delivery(mode=LIVE))):
            folder.add(event)
            if event.HasField("route_changed"):
                changes.append(event.route_changed)
        assert folder.whole().choices[0].content.text == whole
        assert [(change.to_target, change.resumed_after_tokens) for change in changes] == [("edge", 8), ("away", 11)]


async def test_the_inner_router_gives_a_sign_of_life_with_its_first_token() -> None:
    outer = PolicySettings(order=("edge", "spare"), first_token_share=0.1)
    async with chained(outer) as found:
        found.site.interval_s = 0.2  # whole in 0.8 s, later than a tenth of 5 s, which its first token is not
        assert (await found.mesh.generate(text(), deadline_s=5.0)).started.target == "edge"


async def test_explain_shows_both_levels_under_the_stamp_of_the_outer_one(chain: Chain) -> None:
    edge, spare = (await explained(chain.mesh)).candidates
    assert taken(edge.plan) == [("site", True), ("away", True)]
    assert not spare.HasField("plan")
    there = (await explained(chain.mesh, v1.RoutingPolicy(data_policy=LOCAL_ONLY))).candidates[0].plan
    assert taken(there) == [("site", True), ("away", False)]
    assert "must stay on the site" in there.candidates[1].reasons[0]
    assert chain.counts() == (0, 0, 0)


async def test_explain_goes_on_without_an_inner_router_that_does_not_answer() -> None:
    settings = RouterSettings(server=LOOPBACK, targets=(target("edge", "local", "127.0.0.1:1", router=True),))
    async with build(settings) as app:
        remote = Remote(app.server.address, tracing=Tracing("test"))
        plan = await explained(Mesh(FakeEngine(), FakeEngine(), app.server.address, remote, []))
        await remote.close()
    assert [(candidate.target, candidate.HasField("plan")) for candidate in plan.candidates] == [("edge", False)]


async def test_whom_the_caller_denies_is_not_asked_for_an_opinion_behind_a_router_either() -> None:
    outer = PolicySettings(strategy="cascade", order=("spare", "edge"), judge="edge")
    inner = PolicySettings(order=("away", "site"))
    async with chained(outer, inner, outer_validator=FakeValidator(json_only, emails, lambda request: 0.9)) as chain:
        policy = v1.RoutingPolicy(denied_targets=["away"])
        answer = await chain.mesh.generate(chat(), policy)
        assert answer.started.target == "spare"
        assert chain.counts() == (1, 0, 1)
        assert chain.site.seen[0].request.spec.constraint.choices.values, "it was asked whether the answer is right"


async def test_routers_that_form_a_loop_refuse_the_request_and_say_so() -> None:
    async with AsyncExitStack() as stack:
        # A router whose only target is itself: the smallest loop.
        listen = LOOPBACK.model_copy(update={"listen": f"127.0.0.1:{free_port()}"})
        settings = RouterSettings(server=listen, targets=(target("self", "local", listen.listen, router=True),))
        kept: list[Attempt] = []
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: kept.append(attempt)))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        mesh = Mesh(FakeEngine(), FakeEngine(), app.server.address, remote, kept)
        with pytest.raises(RequestInvalid, match="do the targets form a loop"):
            await mesh.generate(text())
        assert len(kept) == metadata.MAX_HOPS + 1
        assert (await explained(mesh)).candidates[0].plan.candidates


async def test_a_prompt_is_never_counted_at_a_router_which_has_no_stamp_for_it(chain: Chain) -> None:
    stub: Any = chain.mesh.stub
    call, request = Call("r", Deadline.after(5)), v1.CountTokensRequest(spec=text("one two"))
    told = await chain.mesh.remote.unary(stub.CountTokens, request, call, span_name="t")
    assert (told.tokens, told.exact, told.model) == (2, True, "spare")
    async with chained(PolicySettings(order=("edge",))) as found:
        told = await found.mesh.remote.unary(found.mesh.stub.CountTokens, request, call, span_name="t")
        assert not told.exact
        found.flush()
        assert not [span for span in found.spans.get_finished_spans() if span.name == names.COUNT]


async def test_a_refusal_for_every_target_is_still_told_as_it_is(chain: Chain) -> None:
    with pytest.raises(NoCompliantTarget):
        await chain.mesh.generate(text(), v1.RoutingPolicy(denied_targets=["edge", "spare"]))


def taken(plan: v1.Plan) -> list[tuple[str, bool]]:
    return [(candidate.target, candidate.taken) for candidate in plan.candidates]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_router_behind_another_inspects_by_its_own_policy() -> None:
    validator = FakeValidator(json_only, emails)
    async with chained(inner=PolicySettings(inspect=True, order=("away", "site")), inner_validator=validator) as chain:
        await chain.mesh.generate(text("nothing to find"))
        assert chain.counts() == (0, 1, 0)
        response = await chain.mesh.generate(text("write to a@b.example"))
        assert chain.counts() == (1, 1, 0)
        assert response.started.route_reason.endswith("inspection found email")
    assert len(validator.inspected) == 2


async def test_what_was_inspected_before_a_router_is_not_inspected_there_for_the_callers_sake() -> None:
    before, behind = FakeValidator(json_only, emails), FakeValidator(json_only, emails)
    inner = PolicySettings(order=("away", "site"))
    async with chained(inner=inner, outer_validator=before, inner_validator=behind) as chain:
        wish = v1.RoutingPolicy(inspect_input=True)
        await chain.mesh.generate(text("nothing to find"), wish)
        assert chain.counts() == (0, 1, 0)
        await chain.mesh.generate(text("write to a@b.example"), wish)
        assert chain.counts() == (1, 1, 0)
        stamp = chain.site.seen[-1].request.stamp
    assert stamp.data_policy.sensitivity == v1.SENSITIVITY_CONFIDENTIAL
    assert len(before.inspected) == 2
    assert behind.inspected == []
