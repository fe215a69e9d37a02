"""What operators see of leases, and a lease taken back, over the router and by the commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.router.app import build
from services.router.policy_settings import TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.cli import lease as command
from spillway.deadline import Deadline
from spillway.errors import RequestInvalid, ScopeMissing, TargetBusy, TargetDown, TargetUnknown
from spillway.rpc.call import Call
from spillway.rpc.keys import hash_key
from spillway.rpc.remote import Remote
from spillway.settings import ServerSettings, StoreSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.v1 import router_admin_pb2_grpc
from tests.integration.lease.engines import NAME, engines, hanging, in_line
from tests.integration.lease.runtime import Runtime

pytestmark = pytest.mark.usefixtures("logs_come_back")


class Operator:
    """Calls one router's RouterAdminService."""

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = address
        self.remote = Remote(address, tracing=Tracing("test"), key=key)
        self._admin: Any = router_admin_pb2_grpc.RouterAdminServiceStub(self.remote.channel)

    async def leases(self, name: str = "") -> list[v1.Lease]:
        told = await self._ask(self._admin.ListLeases, v1.ListLeasesRequest(name=name))
        return list(told.leases)

    async def release(self, name: str) -> v1.Lease:
        told = await self._ask(self._admin.ReleaseLease, v1.ReleaseLeaseRequest(name=name))
        lease: v1.Lease = told.lease
        return lease

    async def _ask(self, method: Any, request: Any) -> Any:
        return await self.remote.unary(method, request, Call("operator", Deadline.after(5)), span_name="t")


@asynccontextmanager
async def operating(url: str | None, server: ServerSettings = LOOPBACK, key: str = "") -> AsyncIterator[Operator]:
    """A router that shares the store at `url`, and who operates it."""
    target = TargetSettings(name="t", kind="local", address="127.0.0.1:9")
    settings = RouterSettings(server=server, targets=(target,), store=StoreSettings(url=url))
    async with build(settings) as app:
        operator = Operator(app.server.address, key or None)
        try:
            yield operator
        finally:
            await operator.remote.close()


async def test_a_router_tells_who_holds_a_lease_and_who_waits(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey) as (engine,), operating(valkey) as operator, hanging(engine, runtime):
        waiting = asyncio.create_task(engine.ask())
        await in_line(engine, 1)
        async with asyncio.timeout(10):
            while True:
                (lease,) = await operator.leases()
                if lease.waiting:
                    break
        (holder,) = lease.holders
        assert (lease.name, lease.slots, lease.waiting) == (NAME, 1, 1)
        assert (holder.request_id, holder.released) == ("holder", False)
        assert holder.owner.startswith("local@")
        assert holder.fencing_token > 0
        assert 0 < holder.left_s <= 2
        runtime.go.set()
        await waiting
        assert not (await operator.leases(NAME))[0].holders


async def test_a_released_lease_ends_its_call_and_the_next_begins(runtime: Runtime, valkey: str) -> None:
    async with engines(runtime, valkey, 2) as (one, other), operating(valkey) as operator:
        async with hanging(one, runtime) as holder:
            assert (await operator.release(NAME)).holders[0].released
            with pytest.raises(TargetBusy, match="an operator released it"):
                await holder
        assert await other.ask()


async def test_a_lease_nobody_took_is_not_known(valkey: str) -> None:
    async with operating(valkey) as operator:
        assert await operator.leases() == []
        for asked in (operator.leases("nobody"), operator.release("nobody")):
            with pytest.raises(TargetUnknown, match="no lease is called 'nobody'; known: none"):
                await asked


async def test_a_router_without_a_store_or_whose_store_is_away_says_so(tmp_path: Path) -> None:
    async with operating(None) as operator:
        with pytest.raises(RequestInvalid, match=r"store\.url"):
            await operator.leases()
    async with operating(f"unix://{tmp_path}/none") as operator:
        with pytest.raises(TargetDown, match="the store is away"):
            await operator.leases()


async def test_leases_are_for_operators_alone(valkey: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n- {{name: shop, sha256: {hash_key('shop')}, tenant: a, scopes: [generate]}}\n")
    server = ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0, keys_file=keys)
    async with operating(valkey, server, "shop") as operator:
        for asked in (operator.leases(), operator.release(NAME)):
            with pytest.raises(ScopeMissing):
                await asked


async def test_the_commands_list_show_and_release(
    runtime: Runtime, valkey: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with engines(runtime, valkey) as (engine,), operating(valkey) as operator:
        there: dict[str, str | None] = {"address": operator.address, "key": None}
        async with hanging(engine, runtime) as holder:
            for name in ("", NAME):
                assert await asyncio.to_thread(command.show, name, **there) == 0
                shown = capsys.readouterr().out
                assert f"{NAME}  local@" in shown
                assert "holder" in shown
            assert await asyncio.to_thread(command.release, NAME, **there) == 0
            assert "is told to end holder" in capsys.readouterr().out
            with pytest.raises(TargetBusy):
                await holder
        assert await asyncio.to_thread(command.show, NAME, **there) == 0
        assert "free" in capsys.readouterr().out
        assert await asyncio.to_thread(command.release, "nobody", **there) == 2
        assert "no lease is called" in capsys.readouterr().err
