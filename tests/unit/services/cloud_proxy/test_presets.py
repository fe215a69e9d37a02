"""What each preset makes of a provider: the request as it leaves, and what it takes no longer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import yaml
from aiohttp import web
from genai_prices.data_snapshot import get_snapshot
from pydantic import ValidationError

from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.presets import PRESETS, PresetName
from services.cloud_proxy.provider import Exchange, Wire
from services.cloud_proxy.settings import CloudProxySettings, ProviderSettings
from services.cloud_proxy.wires.mistral import Mistral
from services.cloud_proxy.wires.openai import OpenAI
from services.router.settings import RouterSettings
from spillway import errors, v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.settings import load
from tests.integration.cloud_proxy.rig import keyring

WIRES: dict[str, Callable[[ProviderSettings], Wire]] = {"openai": OpenAI, "mistral": Mistral}
ANSWER = {
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
DOCS = Path(__file__).parents[4] / "docs" / "providers"
ADDRESSES = {
    "azure": "https://acme.openai.azure.com/openai/v1",
    "modal": "https://acme--chat-serve.modal.run/v1",
}
"""Of those that have none of their own."""


def settings(preset: str, **more: Any) -> ProviderSettings:
    told = {"name": "p", "preset": preset, "region": "us", "models": [{"name": "m"}], **more}
    if preset in ADDRESSES:
        told.setdefault("base_url", ADDRESSES[preset])
    return ProviderSettings.model_validate(told)


@dataclass
class Recorder:
    """A server that answers every request the same and keeps what came."""

    seen: list[web.Request] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        self.bodies.append(await request.json())
        return web.json_response(ANSWER)


@asynccontextmanager
async def recorded(**told: Any) -> AsyncIterator[tuple[HttpProvider, Recorder]]:
    """A provider whose settings are `told`, but for the host, which is a recorder here."""
    recorder, application = Recorder(), web.Application()
    application.router.add_route("*", "/{path:.*}", recorder.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    usual = settings(**told)
    here = f"http://127.0.0.1:{runner.addresses[0][1]}{urlsplit(usual.base_url).path}"
    made = settings(**{**told, "base_url": here})
    provider = HttpProvider(made, WIRES[made.kind](made), keyring("sk-secret"))
    try:
        yield provider, recorder
    finally:
        await provider.close()
        await runner.cleanup()


def asked(**more: Any) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="hello")])])
    return v1.GenerationSpec(**{"chat": chat, "sampling": v1.Sampling(max_tokens=9), **more})


async def sent(spec: v1.GenerationSpec, **told: Any) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Path with query, headers and body of a request for `spec`."""
    async with recorded(**told) as (provider, recorder):
        prepared, call = provider.prepare(spec, "m"), Call("test", Deadline.after(10))
        assert [deltas async for deltas in provider.stream(prepared, call, Exchange())]
    [request], [body] = recorder.seen, recorder.bodies
    return request.path_qs, {name.lower(): value for name, value in request.headers.items()}, body


LEAVES: dict[str, tuple[str, str]] = {
    "azure": ("/openai/v1/chat/completions", "max_completion_tokens"),
    "baseten": ("/v1/chat/completions", "max_tokens"),
    "cerebras": ("/v1/chat/completions", "max_completion_tokens"),
    "deepseek": ("/v1/chat/completions", "max_tokens"),
    "deepseek-beta": ("/beta/chat/completions", "max_tokens"),
    "fireworks": ("/inference/v1/chat/completions", "max_tokens"),
    "groq": ("/openai/v1/chat/completions", "max_completion_tokens"),
    "mistral": ("/v1/chat/completions", "max_tokens"),
    "modal": ("/v1/chat/completions", "max_tokens"),
    "openai": ("/v1/chat/completions", "max_completion_tokens"),
    "openrouter": ("/api/v1/chat/completions", "max_tokens"),
    "replicate": ("/v1/chat/completions", "max_tokens"),
    "together": ("/v1/chat/completions", "max_tokens"),
    "xai": ("/v1/chat/completions", "max_completion_tokens"),
}
"""Path, and the name of the limit on tokens."""


@pytest.mark.parametrize("preset", sorted(LEAVES))
async def test_a_request_leaves_as_the_provider_wants_it(preset: str) -> None:
    path, limit = LEAVES[preset]
    found, headers, body = await sent(asked(), preset=preset)
    assert (found, body.pop(limit), body.pop("model")) == (path, 9, "m")
    usual = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    assert body == (usual if preset == "mistral" else {**usual, "stream_options": {"include_usage": True}})
    key = {"api-key": "sk-secret"} if preset == "azure" else {"authorization": "Bearer sk-secret"}
    assert {name: headers.get(name) for name in key} == key
    assert ("authorization" in headers) == (preset != "azure")


async def test_azures_dated_api_has_the_deployment_and_the_version_in_its_address() -> None:
    dated = {"preset": "azure", "base_url": "https://acme.openai.azure.com/openai", "api_version": "2024-10-21"}
    path, headers, _ = await sent(asked(), **dated)
    assert path == "/openai/deployments/m/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == "sk-secret"
    wire = OpenAI(settings(**dated))
    assert wire.models_path() == "models?api-version=2024-10-21"
    embedding = wire.prepare_embedding(v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text="x")]), "my embedder")
    assert embedding.path == "deployments/my%20embedder/embeddings?api-version=2024-10-21"


async def test_a_beginning_goes_to_deepseeks_beta_as_a_prefix() -> None:
    _, _, body = await sent(asked(continuation=v1.Continuation(text="so")), preset="deepseek-beta")
    assert body["messages"][-1] == {"role": "assistant", "content": "so", "prefix": True}


async def test_what_the_configuration_says_wins_over_the_preset() -> None:
    _, _, body = await sent(asked(), preset="groq", max_tokens_field="max_tokens", stream_usage=False)
    assert body["max_tokens"] == 9
    assert "stream_options" not in body
    made = settings("groq", lacks=[], price_list="openai", models=[{"name": "m", "capabilities": ["tools"]}])
    assert (sorted(made.lacks), made.price_list, sorted(made.models[0].capabilities)) == ([], "openai", ["tools"])
    assert settings("azure", kind="openai-responses").kind == "openai-responses"


@pytest.mark.parametrize(
    ("preset", "more", "fields"),
    [
        ("groq", {"logprobs": v1.Logprobs(top=1)}, ["spec.logprobs"]),
        ("deepseek", {"constraint": v1.OutputConstraint(json_schema="{}")}, ["spec.constraint.json_schema"]),
        ("together", {"stop": v1.Stop(token_ids=[1]), "logprobs": v1.Logprobs()}, ["spec.logprobs", "spec.stop"]),
        ("mistral", {"sampling": v1.Sampling(min_p=0.5)}, ["spec.sampling.min_p"]),
        ("replicate", {"tools": [v1.Tool(name="x")]}, ["spec.tools"]),
    ],
)
async def test_what_a_provider_lacks_is_refused_by_name(preset: str, more: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(errors.ConstraintUnsupported) as raised:
        await sent(asked(**more), preset=preset)
    assert [violation.field for violation in raised.value.fields] == fields


async def test_what_a_configuration_says_that_a_provider_lacks_is_refused_in_every_wire_format() -> None:
    for preset in ("mistral", "openai"):
        with pytest.raises(errors.ConstraintUnsupported, match=r"spec\.tools"):
            await sent(asked(tools=[v1.Tool(name="x")]), preset=preset, lacks=["tools"])


async def test_extended_sampling_goes_to_those_that_take_it() -> None:
    spec = asked()
    spec.sampling.top_k, spec.sampling.repetition_penalty = 5, 1.5
    _, _, body = await sent(spec, preset="together")
    assert (body["top_k"], body["repetition_penalty"]) == (5, 1.5)
    with pytest.raises(errors.ConstraintUnsupported):
        await sent(spec, preset="xai")


@pytest.mark.parametrize("preset", sorted(ADDRESSES))
def test_a_preset_without_an_address_says_how_yours_looks(preset: str) -> None:
    with pytest.raises(ValidationError, match=rf"base_url: preset {preset} needs yours, as in https://"):
        ProviderSettings.model_validate({"name": "p", "preset": preset, "region": "us", "models": [{"name": "m"}]})


@pytest.mark.parametrize("wrong", [{"preset": "acme"}, {"preset": 5}, {"preset": "groq", "lacks": ["nonsense"]}])
def test_what_is_unknown_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**{"preset": "openai", **wrong})


@pytest.mark.parametrize("address", ["", None])
def test_an_empty_address_is_the_presets_and_no_other_providers(address: str | None) -> None:
    assert settings("groq", base_url=address).base_url == "https://api.groq.com/openai/v1"
    with pytest.raises(ValidationError, match="needs yours"):
        settings("azure", base_url=address)


def test_a_region_is_nothing_that_a_preset_knows() -> None:
    with pytest.raises(ValidationError, match="region"):
        ProviderSettings.model_validate({"name": "p", "preset": "openai", "models": [{"name": "m"}]})


def test_every_name_has_a_preset_and_every_price_list_is_one() -> None:
    assert set(get_args(PresetName)) == set(PRESETS)
    lists = {provider.id for provider in get_snapshot().providers}
    named = {preset.settings.get("price_list") for preset in PRESETS.values()} - {None}
    assert named <= lists


def test_every_preset_makes_a_provider_of_its_own_wire_format_and_capabilities() -> None:
    made = {name: settings(name) for name in PRESETS}
    own = {name: provider.kind for name, provider in made.items() if provider.kind != "openai"}
    assert own == {"anthropic": "anthropic", "gemini": "gemini", "mistral": "mistral"}
    held = {name for name, provider in made.items() if "json_schema" in provider.models[0].capabilities}
    assert set(made) - held == {"deepseek", "deepseek-beta", "groq", "replicate"}
    assert made["mistral"].base_url == "https://api.mistral.ai/v1"


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(
    "told", [{}, {"usage": 5, "x_groq": [], "error": "x"}, {"error": {"metadata": 3}, "usage": {"cost": float("inf")}}]
)
def test_no_shape_breaks_on_what_a_server_may_send(name: str, told: dict[str, Any]) -> None:
    before = json.dumps(told)
    assert json.dumps(dict(PRESETS[name].shape(json.loads(before)))) == before


def examples(page: str) -> list[dict[str, Any]]:
    """Providers as the tables of `page` show them."""
    return [yaml.safe_load(row) for row in re.findall(r"\| `(\{.+\})` \|$", (DOCS / page).read_text(), re.MULTILINE)]


def test_every_documented_example_is_a_provider_and_every_preset_has_one() -> None:
    found = [ProviderSettings.model_validate(told) for told in examples("README.md")]
    assert {provider.preset for provider in found} == {*PRESETS, None}
    assert {provider.kind for provider in found} == {"openai", "openai-responses", "anthropic", "mistral", "gemini"}


def test_the_documented_mesh_reads() -> None:
    proxy = load("cloud_proxy", CloudProxySettings, path=DOCS / "mistral.yaml", environ={})
    assert [(one.preset, one.kind, one.simulated) for one in proxy.providers] == [("mistral", "mistral", True)]
    load("router", RouterSettings, path=DOCS / "mistral.yaml", environ={})
