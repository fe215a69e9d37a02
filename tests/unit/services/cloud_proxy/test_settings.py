"""Settings of the cloud proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.cloud_proxy.settings import CloudProxySettings
from services.router.settings import RouterSettings
from spillway.settings import SettingsError, explain, load


def read(**provider: Any) -> CloudProxySettings:
    told = {"name": "openai", "region": "us", "models": [{"name": "gpt-4o-mini"}], **provider}
    from pydantic import ValidationError

    try:
        return CloudProxySettings.model_validate({"providers": [told]})
    except ValidationError as error:
        raise SettingsError(explain(error, "cloud_proxy")) from None


def test_a_provider_needs_little() -> None:
    provider = read().providers[0]
    assert provider.base_url == "https://api.openai.com/v1"
    assert provider.max_sensitivity == "internal"
    assert provider.limits.requests_per_minute is None


def test_a_rate_in_words_becomes_limits_of_a_provider_and_of_a_model() -> None:
    models = [{"name": "m", "rate_limit": ["40000 tokens/min", "10/s"]}]
    provider = read(rate_limit="1000 requests/min, 100k input tokens/min", models=models).providers[0]
    assert (provider.limits.requests_per_minute, provider.limits.input_tokens_per_minute) == (1000, 100_000)
    assert provider.models[0].limits.tokens_per_minute == 40_000
    assert provider.models[0].limits.requests_per_minute == 600
    also = read(rate_limit="5000 requests per hour", limits={"concurrency": 7}).providers[0].limits
    assert (also.requests_per_minute, also.concurrency) == (83, 7)


def test_a_tenant_that_is_not_named_has_the_default() -> None:
    limits = {"default": {"usd_per_day": 1}, "tenants": {"acme": {"usd_per_day": 5}}}
    provider = read(tenant_limits=limits).providers[0]
    assert [provider.tenant_limits.of(name).usd_per_day for name in ("acme", "x")] == [5, 1]


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"rate_limit": "many"}, "rate_limit: expected a rate"),
        ({"rate_limit": "5/min", "limits": {"requests_per_minute": 6}}, "limits already has requests_per_minute"),
        ({"limits": {"usd_per_day": 0}}, "limits.usd_per_day"),
        ({"limits": {"concurrency": 1.5}}, "limits.concurrency"),
        ({"tenant_limits": {"tenants": {"a": {"rpm": 1}}}}, "tenant_limits.tenants.a.rpm: unknown setting"),
        ({"limits": {"requests_per_minute": True}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"rpm": 5}}, "limits.rpm: unknown setting"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "https://host:many/v1"}, "base_url"),
        ({"base_url": "https://host/v1#models"}, "base_url"),
        ({"kind": ["openai"]}, "kind"),
        ({"base_url": "https://user:sk-secret@host/v1"}, "base_url"),
        ({"key_env": "A", "key_file": "b"}, "key_env or key_file"),
        ({"keys": [{"env": "A", "file": "b"}]}, "set env or file, one of the two"),
        ({"keys": [{}]}, "set env or file, one of the two"),
        ({"key_env": "A", "keys": [{"env": "A"}]}, "named twice: A"),
        ({"proxy": "socks5://user:sk-secret@host:1"}, "must be http://host:port"),
        ({"proxy": "http://host:many"}, "must be http://host:port"),
        ({"models": []}, "models"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "named twice: a"),
        ({"name": "a/b"}, "name"),
        ({"region": ""}, "region"),
        ({"kind": "openai-responses", "prefill": "plain"}, "prefill: the wire format openai-responses"),
        ({"kind": "openai-responses", "extended_sampling": True}, "extended_sampling: the wire format"),
        ({"reasoning_summary": "auto"}, "reasoning_summary: the wire format openai has"),
        ({"models": [{"name": "a", "capabilities": ["prefill"]}]}, "capability prefill needs `prefill`"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**wrong)
    assert path in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_the_example_of_claude_is_a_configuration() -> None:
    path = Path(__file__).parents[4] / "docs" / "providers" / "anthropic.yaml"
    (provider,) = load("cloud_proxy", CloudProxySettings, path=path, environ={}).providers
    assert provider.kind == "anthropic"
    assert all("json_object" not in model.capabilities for model in provider.models)
    (target,) = load("router", RouterSettings, path=path, environ={}).targets
    assert target.model == f"{provider.name}/{provider.models[0].name}"
    assert target.capabilities == provider.models[0].capabilities
