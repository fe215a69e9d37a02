"""Defaults of a key, over gRPC and HTTP alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.router.http.settings import HttpSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import NoCompliantTarget
from spillway.generation import fold
from spillway.rpc.call import Call
from spillway.rpc.keys import hash_key
from spillway.rpc.remote import Remote
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing
from tests.integration.router.http.rig import MESSAGES, client_of
from tests.integration.router.mesh import Mesh, chat, running_mesh


@asynccontextmanager
async def running_with(defaults: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    keys = tmp_path / "keys.yaml"
    scopes = "scopes: [generate, route]"
    keys.write_text(f"keys: [{{name: shop, sha256: {hash_key('shop')}, tenant: a, {scopes}, defaults: {defaults}}}]")
    server = ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0, keys_file=keys)
    async with running_mesh(server=server, http=HttpSettings(listen="127.0.0.1:0")) as mesh:
        await mesh.remote.close()
        mesh.remote = Remote(mesh.address, tracing=Tracing("test"), key="shop")
        mesh.__post_init__()
        try:
            yield mesh
        finally:
            await mesh.remote.close()


async def test_a_request_that_says_nothing_is_routed_by_its_keys_defaults(tmp_path: Path) -> None:
    async with running_with("{category: complex}", tmp_path) as mesh:
        assert (await mesh.generate(chat())).started.target == "cloud"
        assert (await fold(mesh.stream(chat()))).started.target == "cloud"
        call = Call("r", Deadline.after(5))
        request = v1.ExplainRouteRequest(spec=chat())
        explained = await mesh.remote.unary(mesh.routes.ExplainRoute, request, call, span_name="t")
        assert explained.plan.candidates[0].target == "cloud"
        async with client_of(mesh, key="shop") as client:
            answer = await client.chat.completions.create(model="auto", messages=MESSAGES)
            assert answer.model == "openai/big"


async def test_a_callers_own_words_win(tmp_path: Path) -> None:
    async with running_with("{category: complex, model: openai/big}", tmp_path) as mesh:
        spec = chat()
        spec.model = "local"
        assert (await mesh.generate(spec)).started.target == "local"
        async with client_of(mesh, key="shop") as client:
            headers = {"x-spillway-category": "routine"}
            answer = await client.chat.completions.create(model="local", messages=MESSAGES, extra_headers=headers)
            assert answer.model == "small"


async def test_a_caller_cannot_loosen_what_its_key_says_of_content(tmp_path: Path) -> None:
    async with running_with("{residency: local_only}", tmp_path) as mesh:
        loose = v1.DataPolicy(residency=v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_PUBLIC)
        policy = v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX, data_policy=loose)
        assert (await mesh.generate(chat(), policy)).started.target == "local"
        async with client_of(mesh, key="shop") as client:
            headers = {"x-spillway-residency": "any", "x-spillway-category": "complex"}
            answer = await client.chat.completions.create(model="auto", messages=MESSAGES, extra_headers=headers)
            assert answer.model == "small"
        assert not mesh.cloud.seen


async def test_the_delivery_of_a_key_takes_the_place_of_the_edges_own(tmp_path: Path) -> None:
    async with running_with("{delivery: committed}", tmp_path) as mesh, client_of(mesh, key="shop") as client:
        stream: Any = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
        assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) == 1


async def test_what_a_router_sends_on_for_others_keeps_to_its_stamp(tmp_path: Path) -> None:
    async with running_with("{category: complex}", tmp_path) as mesh:
        stamp = v1.PolicyStamp(router="before", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY))
        request = v1.GenerateRequest(spec=chat(), stamp=stamp)
        call = Call("r", Deadline.after(5))
        answer = await mesh.remote.unary(mesh.stub.Generate, request, call, span_name="t")
        assert answer.started.target == "local"


async def test_a_stamp_of_the_callers_own_loosens_nothing_that_its_key_says_of_content(tmp_path: Path) -> None:
    async with running_with("{residency: local_only}", tmp_path) as mesh:
        stamp = v1.PolicyStamp(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY))
        policy = v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX)
        call = Call("r", Deadline.after(5))
        request = v1.GenerateRequest(spec=chat(), policy=policy, stamp=stamp)
        answer = await mesh.remote.unary(mesh.stub.Generate, request, call, span_name="t")
        assert answer.started.target == "local"
        streamed = v1.StreamGenerateRequest(spec=chat(), policy=policy, stamp=stamp)
        async with mesh.remote.stream(mesh.stub.StreamGenerate, streamed, call, span_name="t") as rpc:
            begun, *_ = [response.event.started async for response in rpc]
        assert begun.target == "local"
        explained = v1.ExplainRouteRequest(spec=chat(), policy=policy, stamp=stamp)
        plan = (await mesh.remote.unary(mesh.routes.ExplainRoute, explained, call, span_name="t")).plan
        assert [each.target for each in plan.candidates if each.taken] == ["local"]
        assert not mesh.cloud.seen


async def test_what_its_key_says_of_content_holds_for_a_prompt_that_is_counted(tmp_path: Path) -> None:
    async with running_with("{residency: local_only, model: cloud}", tmp_path) as mesh:
        with pytest.raises(NoCompliantTarget):
            call = Call("r", Deadline.after(5))
            await mesh.remote.unary(mesh.stub.CountTokens, v1.CountTokensRequest(spec=chat()), call, span_name="t")
