"""What operators see of a router, and what they may have it do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.router.cache_settings import CacheSettings
from spillway import v1
from spillway.cli import operator, status
from spillway.deadline import Deadline
from spillway.errors import OutputInvalid, ScopeMissing, TargetDown, TargetUnknown
from spillway.rpc.call import Call
from spillway.rpc.keys import hash_key
from spillway.rpc.remote import Remote
from spillway.settings import ServerSettings, StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry.tracing import Tracing
from spillway.testing.faults import Garbage, Refuse, Script
from spillway.v1 import router_admin_pb2_grpc
from tests.integration.router.mesh import Mesh, json_spec, running_mesh, text

pytestmark = pytest.mark.usefixtures("logs_come_back")

GONE = Script(always=Refuse(TargetDown("gone")))


async def told(mesh: Mesh) -> v1.GetStatusResponse:
    admin: Any = router_admin_pb2_grpc.RouterAdminServiceStub(mesh.remote.channel)
    call = Call("r", Deadline.after(5))
    found: v1.GetStatusResponse = await mesh.remote.unary(admin.GetStatus, v1.GetStatusRequest(), call, span_name="t")
    return found


async def reset(mesh: Mesh, target: str) -> v1.TargetStatus:
    admin: Any = router_admin_pb2_grpc.RouterAdminServiceStub(mesh.remote.channel)
    call, request = Call("r", Deadline.after(5)), v1.ResetBreakerRequest(target=target)
    found: v1.ResetBreakerResponse = await mesh.remote.unary(admin.ResetBreaker, request, call, span_name="t")
    return found.target


async def test_the_status_names_every_target_and_what_its_transport_breaker_holds_against_it(mesh: Mesh) -> None:
    assert [(target.target, list(target.breakers)) for target in (await told(mesh)).targets] == [
        ("local", []),
        ("cloud", []),
    ]
    mesh.local.faults = GONE
    for _ in range(3):
        await mesh.generate(text())
    found = await told(mesh)
    (breaker,) = found.targets[0].breakers
    assert (breaker.kind, breaker.state) == ("", v1.BREAKER_STATE_OPEN)
    assert breaker.why == "3 failures in a row"
    assert not found.targets[1].breakers
    assert breaker.left_s > 0
    assert found.policy_revision == "test"
    assert not found.HasField("cache")


async def test_a_reset_closes_the_breakers_of_a_target_and_it_is_used_again(mesh: Mesh) -> None:
    mesh.local.faults = GONE
    for _ in range(3):
        await mesh.generate(text())
    mesh.local.faults = Script()
    assert (await mesh.generate(text())).started.target == "cloud"
    assert not (await reset(mesh, "local")).breakers
    assert (await mesh.generate(text())).started.target == "local"


async def test_the_quality_of_one_kind_of_work_is_told_apart_from_the_transport(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Garbage("no"))
    mesh.cloud.faults = Script(always=Garbage("no"))
    while not (found := (await told(mesh)).targets[0].breakers):
        with pytest.raises(OutputInvalid):
            await mesh.generate(json_spec())
    assert [breaker.kind.split()[0] for breaker in found] == ["json_schema"]


async def test_a_target_that_the_policy_does_not_name_is_not_found(mesh: Mesh) -> None:
    with pytest.raises(TargetUnknown, match="'nobody' is not in the policy") as caught:
        await reset(mesh, "nobody")
    assert caught.value.resource == "nobody"


async def test_the_cache_tells_its_tally() -> None:
    async with embedded_valkey() as url:
        cache = CacheSettings(enabled=True, store=StoreSettings(url=url))
        async with running_mesh(cache=cache) as mesh:
            policy = v1.RoutingPolicy(cache=v1.CACHE_MODE_USE)
            await mesh.generate(text(), policy)
            await mesh.generate(text(), policy)
            found = (await told(mesh)).cache
    assert (found.misses, found.hits + found.shared, found.saved_tokens > 0) == (1, 1, True)


async def test_operators_need_the_scope_admin(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(
        f"keys:\n- {{name: shop, sha256: {hash_key('shop')}, tenant: a, scopes: [generate]}}\n"
        f"- {{name: op, sha256: {hash_key('op')}, tenant: ops, scopes: [admin]}}\n"
    )
    server = ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0, keys_file=keys)
    async with running_mesh(server=server) as mesh:
        for key, may in (("shop", False), ("op", True)):
            mesh.remote = Remote(mesh.address, tracing=Tracing("test"), key=key)
            try:
                if may:
                    assert (await told(mesh)).targets
                    continue
                with pytest.raises(ScopeMissing):
                    await told(mesh)
                with pytest.raises(ScopeMissing):
                    await reset(mesh, "local")
            finally:
                await mesh.remote.close()


async def test_the_commands_show_the_targets_reset_a_breaker_and_refuse_an_unknown_one(
    mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.local.faults = GONE
    for _ in range(3):
        await mesh.generate(text())
    await asyncio.to_thread(status.run, address=mesh.address, key=None)
    shown = capsys.readouterr().out
    assert "open" in shown
    assert "3 failures in a row" in shown
    assert await asyncio.to_thread(operator.reset_breaker, "local", address=mesh.address, key=None) == 0
    assert not (await told(mesh)).targets[0].breakers
    assert await asyncio.to_thread(operator.reset_breaker, "nobody", address=mesh.address, key=None) == 2
    assert await asyncio.to_thread(operator.reload_policy, address=mesh.address, key=None) == 2
    assert "policy_file" in capsys.readouterr().err
