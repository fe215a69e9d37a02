"""Settings of the cloud proxy."""

from __future__ import annotations

from typing import Any

import pytest

from services.cloud_proxy.settings import CloudProxySettings
from spillway.settings import SettingsError, explain


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


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"limits": {"requests_per_minute": True}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"rpm": 5}}, "limits.rpm: unknown setting"),
        ({"base_url": "ftp://x"}, "base_url"),
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
        ({"models": [{"name": "a", "capabilities": ["prefill"]}]}, "capability prefill needs `prefill`"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**wrong)
    assert path in str(caught.value)
    assert "sk-secret" not in str(caught.value)
