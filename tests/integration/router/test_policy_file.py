"""The policy file in force: changed as a whole or not at all, while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.router.app import build
from services.router.policy_file import PolicyFile
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import RequestInvalid
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import SettingsError
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from spillway.v1 import router_admin_pb2_grpc
from tests.integration.router.mesh import Mesh, running_mesh, text


@dataclass
class Filed:
    """A router whose policy is in a file."""

    mesh: Mesh
    path: Path
    addresses: dict[str, str]
    admin: Any

    def write(self, *targets: str, revision: str = "") -> None:
        write(self.path, self.addresses, *targets, revision=revision)

    async def reload(self) -> v1.ReloadPolicyResponse:
        return await self.mesh.remote.unary(
            self.admin.ReloadPolicy, v1.ReloadPolicyRequest(), Call("r", Deadline.after(5)), span_name="t"
        )


def write(path: Path, addresses: dict[str, str], *names: str, revision: str = "") -> None:
    targets = [
        {"name": name, "kind": "local", "address": addresses[name], "capabilities": ["text_input"]} for name in names
    ]
    path.write_text(yaml.safe_dump({"targets": targets, "revision": revision}))


def saying(name: str) -> FakeEngine:
    return FakeEngine(model=name, answer=lambda spec: f"{name} says this")


@pytest.fixture
async def filed(tmp_path: Path) -> AsyncIterator[Filed]:
    engines = {name: saying(name) for name in ("one", "two")}
    async with AsyncExitStack() as stack:
        addresses = {
            name: (await stack.enter_async_context(serving_engine(engine))).address for name, engine in engines.items()
        }
        path = tmp_path / "policy.yaml"
        write(path, addresses, "one")
        settings = RouterSettings(server=LOOPBACK, policy_file=path, policy_reload_s=0.05)
        app = await stack.enter_async_context(build(settings))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        mesh = Mesh(engines["one"], engines["two"], app.server.address, remote, [])
        yield Filed(mesh, path, addresses, router_admin_pb2_grpc.RouterAdminServiceStub(remote.channel))


async def test_a_changed_file_is_in_force_without_a_restart(filed: Filed) -> None:
    assert (await filed.mesh.generate(text())).started.target == "one"
    filed.write("two", revision="2")

    async def answered_by() -> str:
        return (await filed.mesh.generate(text())).started.target

    while await answered_by() != "two":
        pass


async def test_a_bad_file_keeps_the_old_policy_and_says_why(filed: Filed) -> None:
    filed.write("one", revision="good")
    assert (await filed.reload()).policy_revision == "good"
    filed.path.write_text("targets: [{name: one}]")
    told = await filed.reload()
    assert told.policy_revision == "good"
    assert [(finding.path, finding.fatal) for finding in told.findings] == [
        ("targets[0].kind", True),
        ("targets[0].address", True),
    ]
    filed.path.unlink()
    assert "cannot be read" in (await filed.reload()).findings[0].message
    assert (await filed.mesh.generate(text())).started.target == "one"


async def test_a_stream_that_runs_ends_as_it_began_when_its_target_is_removed(filed: Filed) -> None:
    filed.mesh.local.interval_s = 0.05
    said = ""
    async with aclosing(filed.mesh.stream(text())) as events:
        async for event in events:
            if event.HasField("started"):
                filed.write("two", revision="2")
                assert (await filed.reload()).policy_revision == "2"
            said += event.delta.text
    assert said == "one says this"
    assert (await filed.mesh.generate(text())).started.target == "two"
    await eventually(lambda: not filed.mesh.local.running)


async def test_a_document_is_checked_without_putting_it_in_force(filed: Filed) -> None:
    request = v1.CheckPolicyRequest(document="targets: []\npolicy: {idle: 3}")
    call = Call("r", Deadline.after(5))
    told: v1.CheckPolicyResponse = await filed.mesh.remote.unary(filed.admin.CheckPolicy, request, call, span_name="t")
    assert not told.sound
    assert [finding.path for finding in told.findings] == ["policy.idle"]


async def test_a_router_without_a_file_has_nothing_to_reload() -> None:
    async with running_mesh() as mesh:
        admin: Any = router_admin_pb2_grpc.RouterAdminServiceStub(mesh.remote.channel)
        with pytest.raises(RequestInvalid, match="policy_file"):
            await mesh.remote.unary(
                admin.ReloadPolicy, v1.ReloadPolicyRequest(), Call("r", Deadline.after(5)), span_name="t"
            )


async def test_a_router_does_not_start_on_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("targets: []")
    with pytest.raises(SettingsError, match="targets: is empty"):
        async with build(RouterSettings(server=LOOPBACK, policy_file=path)):
            pass


def test_a_policy_is_stated_in_one_place() -> None:
    with pytest.raises(ValueError, match="policy_file: the policy is stated there"):
        RouterSettings.model_validate({"policy_file": "p.yaml", "aliases": {"a": {"model": "b"}}})


async def test_others_are_served_while_a_long_policy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write(path, {"a": "a:1"}, "a")
    file, ticks = PolicyFile(path, 60.0), 0
    file.start()
    names = {f"t{number}": f"t{number}:1" for number in range(300)}
    write(path, names, *names)
    reading = asyncio.create_task(file.look())
    while not reading.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 10
