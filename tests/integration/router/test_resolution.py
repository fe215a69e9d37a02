"""A target whose address resolves to many is many targets: a router before engines on several loopback addresses."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from services.router.app import build
from services.router.journal import Attempt
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.resolution import looked_up
from services.router.router import Router
from services.router.settings import RouterSettings, RouterTelemetrySettings
from spillway import v1
from spillway.cli import status
from spillway.deadline import Deadline
from spillway.errors import AllTargetsFailed, TargetDown
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.faults import Refuse, Script
from spillway.testing.server import LOOPBACK, serving
from spillway.testing.waiting import eventually
from spillway.v1 import router_admin_pb2_grpc
from tests.integration.router.mesh import CAPABILITIES, Mesh, text

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
GONE = Script(always=Refuse(TargetDown("gone")))


@dataclass
class Names:
    """A DNS whose answers a test writes. `hosts` None: it fails."""

    hosts: list[str] | None = field(default_factory=lambda: HOSTS[:2])
    asked: int = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        if self.hosts is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return list(self.hosts)


@dataclass
class Site:
    """A router before the engines that `engines.site` resolves to, all on one port."""

    mesh: Mesh
    router: Router
    names: Names
    engines: dict[str, FakeEngine]
    port: int
    admin: Any

    def name(self, host: int, target: str = "local") -> str:
        return f"{target}@{HOSTS[host]}:{self.port}"

    async def asked(self, count: int, policy: v1.RoutingPolicy | None = None) -> Counter[str]:
        """The targets that answered so many requests at once."""
        answers = await asyncio.gather(*(self.mesh.generate(text(), policy) for _ in range(count)))
        return Counter(answer.started.target for answer in answers)

    async def resolves_to(self, *hosts: str) -> None:
        """Change the DNS, and wait until the router has seen it."""
        self.names.hosts = list(hosts)
        await eventually(lambda: self.addresses() == [f"{host}:{self.port}" for host in hosts])

    async def looks_again(self) -> None:
        """Wait until the router has taken in what the DNS says now."""
        asked = self.names.asked
        await eventually(lambda: self.names.asked > asked + 1)

    def addresses(self) -> list[str]:
        return [target.address for target in self.router.book.targets if target.replica_of]

    async def told(self) -> v1.GetStatusResponse:
        told: v1.GetStatusResponse = await self.mesh.remote.unary(
            self.admin.GetStatus, v1.GetStatusRequest(), Call("r", Deadline.after(5)), span_name="t"
        )
        return told

    async def explained(self, policy: v1.RoutingPolicy | None = None) -> list[v1.Candidate]:
        request = v1.ExplainRouteRequest(spec=text(), policy=policy)
        told = await self.mesh.remote.unary(
            self.mesh.routes.ExplainRoute, request, Call("r", Deadline.after(5)), span_name="t"
        )
        return list(told.plan.candidates)


@asynccontextmanager
async def running_site(
    names: Names | None = None,
    *,
    policy: PolicySettings | None = None,
    settings: dict[str, Any] | None = None,
    more: tuple[TargetSettings, ...] = (),
    **target: Any,
) -> AsyncIterator[Site]:
    names = names or Names()
    async with AsyncExitStack() as stack:
        engines = {host: FakeEngine(model="m") for host in HOSTS}
        port = 0
        for host, engine in engines.items():
            listen = LOOPBACK.model_copy(update={"listen": f"{host}:{port}"})
            server = await stack.enter_async_context(serving(*services(engine), settings=listen))
            port = int(server.address.rpartition(":")[2])
        declared = {"address": f"dns:///engines.site:{port}", "weights": "w", **target}
        local = TargetSettings(name="local", kind="local", capabilities=CAPABILITIES, **declared)
        kept: list[Attempt] = []
        app = await stack.enter_async_context(
            build(
                RouterSettings(
                    server=LOOPBACK,
                    resolve_s=0.02,
                    targets=(local, *more),
                    policy=policy or PolicySettings(),
                    **(settings or {}),
                ),
                keep=lambda attempt, call: kept.append(attempt),
                resolve=names,
            )
        )
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        first = engines[HOSTS[0]]
        mesh = Mesh(first, first, app.server.address, remote, kept, metrics=app.metrics)
        admin = router_admin_pb2_grpc.RouterAdminServiceStub(remote.channel)
        yield Site(mesh, app.router, names, engines, port, admin)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as found:
        yield found


async def test_every_address_is_a_target_of_its_own_and_load_chooses_among_them(site: Site) -> None:
    for engine in site.engines.values():
        engine.first_s = 0.05
    answered = await site.asked(6)
    assert answered == {site.name(0): 3, site.name(1): 3}
    assert {attempt.target.name for attempt in site.mesh.kept} == set(answered)
    assert not site.engines[HOSTS[2]].seen


async def test_an_address_that_comes_is_used_and_one_that_goes_is_not(site: Site) -> None:
    await site.resolves_to(*HOSTS[1:])
    for engine in site.engines.values():
        engine.first_s = 0.05
    assert set(await site.asked(6)) == {site.name(1), site.name(2)}


async def test_the_state_of_those_that_stay_is_not_touched(site: Site) -> None:
    for host in HOSTS[:2]:
        site.engines[host].faults = GONE
    for _ in range(3):
        with pytest.raises(AllTargetsFailed):
            await site.mesh.generate(text())
    channel = site.router._fleet.client(site.router.book.targets[0])
    site.engines[HOSTS[0]].faults = Script()
    await site.resolves_to(HOSTS[0], HOSTS[2])
    assert site.router._fleet.client(site.router.book.targets[0]) is channel
    assert site.router.breakers.against(site.name(0))
    assert not site.router.breakers.against(site.name(2))
    assert set(await site.asked(4)) == {site.name(2)}


async def test_a_stream_from_an_address_that_goes_is_whole(site: Site) -> None:
    site.engines[HOSTS[0]].interval_s = 0.05
    async with aclosing(site.mesh.stream(text())) as events:
        first = await anext(events)
        assert first.started.target == site.name(0)
        await site.resolves_to(HOSTS[1])
        said = "".join([event.delta.text async for event in events])
    assert said == "one two three four five"
    assert site.mesh.outcomes() == [f"{site.name(0)}:answered"]


async def test_one_replicas_dead_engine_is_anothers_request(site: Site) -> None:
    site.engines[HOSTS[0]].faults = GONE
    for _ in range(4):
        assert (await site.mesh.generate(text())).started.target == site.name(1)
    assert [breaker.why for breaker in (await site.told()).targets[0].breakers] == ["3 failures in a row"]


async def test_a_lookup_that_fails_keeps_the_last_answer_and_the_status_says_so(site: Site) -> None:
    for hosts, why in ((None, "temporary failure in name resolution"), ([], "it has no address")):
        site.names.hosts = hosts
        await site.looks_again()
        (name,) = (await site.told()).resolutions
        assert name.why == why
        assert list(name.addresses) == [f"{host}:{site.port}" for host in HOSTS[:2]]
        assert name.HasField("age_s")
        assert (await site.mesh.generate(text())).choices
    assert "2 addresses kept" in status.describe_router(await site.told())


@pytest.mark.parametrize("hosts", [None, []], ids=["it fails", "it is empty"])
async def test_a_name_without_an_answer_is_a_target_that_is_down_until_it_has_one(hosts: list[str] | None) -> None:
    async with running_site(Names(hosts)) as site:
        with pytest.raises(TargetDown, match=r"local: it is down: dns:///engines.site:\d+ resolves to nothing"):
            await site.mesh.generate(text())
        (candidate,) = await site.explained()
        assert (candidate.target, candidate.taken) == ("local", False)
        assert candidate.reasons[0].startswith("it is down: dns:///engines.site")
        (told,) = (await site.told()).targets
        assert told.unresolved.startswith("dns:///engines.site")
        await site.resolves_to(HOSTS[0])
        assert (await site.mesh.generate(text())).started.target == site.name(0)


async def test_the_name_means_all_of_its_replicas_and_a_replicas_name_that_one() -> None:
    async with running_site(policy=PolicySettings(order=("local",))) as site:

        async def taken(allowed: list[str], denied: list[str]) -> list[str]:
            found = await site.explained(v1.RoutingPolicy(allowed_targets=allowed, denied_targets=denied))
            return [candidate.target for candidate in found if candidate.taken]

        both, first = [site.name(0), site.name(1)], site.name(0)
        assert await taken(["local"], []) == both
        assert await taken([], ["local"]) == []
        assert await taken([first], []) == [first]
        assert await taken([], [first]) == both[1:]
        spec = text()
        spec.model = "local"
        assert (await site.mesh.generate(spec)).started.target in both


async def test_the_policys_revision_is_the_same_whatever_it_resolves_to(site: Site) -> None:
    before = (await site.told()).policy_revision
    await site.resolves_to(*HOSTS)
    told = await site.told()
    assert told.policy_revision == before
    assert [target.replica_of for target in told.targets] == ["local"] * 3


async def test_a_model_is_listed_once_however_many_addresses_serve_it(site: Site) -> None:
    call = Call("r", Deadline.after(5))
    told = await site.mesh.remote.unary(site.mesh.stub.ListModels, v1.ListModelsRequest(), call, span_name="t")
    assert [model.target for model in told.models] == ["local"]


async def test_a_reset_of_the_name_closes_the_breakers_of_all(site: Site) -> None:
    for host in HOSTS[:2]:
        site.engines[host].faults = GONE
    for _ in range(3):
        with pytest.raises(AllTargetsFailed):
            await site.mesh.generate(text())
    call, request = Call("r", Deadline.after(5)), v1.ResetBreakerRequest(target="local")
    told = await site.mesh.remote.unary(site.admin.ResetBreaker, request, call, span_name="t")
    assert [target.target for target in told.targets] == [site.name(0), site.name(1)]
    assert not any(target.breakers for target in (await site.told()).targets)


async def test_a_list_of_addresses_needs_no_lookup() -> None:
    names = Names()
    async with running_site(names, address="ipv4:127.0.0.1:1,127.0.0.2:1") as site:
        assert [target.target for target in (await site.told()).targets] == ["local@127.0.0.1:1", "local@127.0.0.2:1"]
        assert not names.asked


async def test_a_plain_name_is_one_target_unless_it_says_resolve() -> None:
    async with running_site(address="localhost:1") as site:
        assert [target.name for target in site.router.book.targets] == ["local"]
    async with running_site(address="localhost:1", resolve=True) as site:
        assert len(site.router.book.targets) == 2


async def test_a_cascade_climbs_past_the_replicas_of_a_target_that_hesitated() -> None:
    async with AsyncExitStack() as stack:
        strong = FakeEngine(model="strong", answer=lambda spec: "surely")
        server = await stack.enter_async_context(serving(*services(strong)))
        more = (TargetSettings(name="strong", kind="local", address=server.address, capabilities=CAPABILITIES),)
        policy = PolicySettings(strategy="cascade", order=("local", "strong"))
        site = await stack.enter_async_context(running_site(policy=policy, more=more))
        for engine in site.engines.values():
            engine.probability = 0.1
        assert (await site.mesh.generate(text())).started.target == "strong"
        assert site.mesh.outcomes() == [f"{site.name(0)}:not_confident", "strong:answered"]


async def test_a_cascade_over_replicas_alone_has_nowhere_to_climb() -> None:
    async with running_site(policy=PolicySettings(strategy="cascade")) as site:
        for engine in site.engines.values():
            engine.probability = 0.1
        answer = await site.mesh.generate(text())
        assert not answer.started.route_reason.startswith("degraded")
        assert len(site.mesh.kept) == 1


async def test_a_name_that_a_new_policy_brings_is_looked_up_before_the_policy_is_in_force(tmp_path: Any) -> None:
    names = Names()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(*services(FakeEngine())))
        port = int(server.address.rpartition(":")[2])
        path = tmp_path / "policy.yaml"

        def write(address: str) -> None:
            targets = [{"name": "local", "kind": "local", "address": address, "capabilities": ["text_input"]}]
            path.write_text(yaml.safe_dump({"targets": targets}))

        write(server.address)
        settings = RouterSettings(server=LOOPBACK, policy_file=path, policy_reload_s=600)
        app = await stack.enter_async_context(build(settings, resolve=names))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        names.hosts = ["127.0.0.1"]
        write(f"dns:///engines.site:{port}")
        admin: Any = router_admin_pb2_grpc.RouterAdminServiceStub(remote.channel)
        call = Call("r", Deadline.after(5))
        told = await remote.unary(admin.ReloadPolicy, v1.ReloadPolicyRequest(), call, span_name="t")
        assert told.policy_revision == app.router.book.revision
        assert [target.name for target in app.router.book.targets] == [f"local@127.0.0.1:{port}"]
        mesh = Mesh(FakeEngine(), FakeEngine(), app.server.address, remote, [])
        assert (await mesh.generate(text())).started.target == f"local@127.0.0.1:{port}"


async def test_metrics_name_the_replica_and_forget_one_that_is_long_gone() -> None:
    telemetry = RouterTelemetrySettings(metrics_listen="127.0.0.1:0")
    async with running_site(settings={"telemetry": telemetry}) as site:
        await site.mesh.generate(text())
        measures, gone = site.router._measures, site.name(0)
        assert gone in str(measures._attempts._counts)
        measures.forget([gone])
        assert gone not in str(measures._attempts._counts)


async def test_the_systems_own_resolver_is_asked_by_default() -> None:
    assert "127.0.0.1" in await looked_up("127.0.0.1", 80)
