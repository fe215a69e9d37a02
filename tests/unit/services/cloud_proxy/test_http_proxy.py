"""Which HTTP proxy stands before a provider."""

from __future__ import annotations

import pytest

from services.cloud_proxy.http_proxy import HttpProxy, from_environment
from spillway.settings import SettingsError

URL = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://a:1"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "localhost, .openai.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "api.openai.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:1", "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "notopenai.com,openai.com.example"}, "http://proxy:1"),
    ],
)
def test_the_environment_names_a_proxy_and_who_goes_without(environ: dict[str, str], found: str | None) -> None:
    proxy = from_environment(URL, environ)
    assert (proxy and proxy.url) == found


def test_a_host_may_go_without_a_proxy_on_one_port_alone() -> None:
    environ = {"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "here:8000"}
    assert from_environment("http://here:8000/v1", environ) is None
    assert from_environment("http://here:8001/v1", environ) is not None


def test_what_is_no_proxy_is_refused_without_telling_it() -> None:
    with pytest.raises(SettingsError, match="HTTPS_PROXY is not") as caught:
        from_environment(URL, {"HTTPS_PROXY": "socks5://me:sk-secret@proxy:1"})
    assert "secret" not in str(caught.value)


def test_user_and_password_of_a_proxy_are_in_its_header_alone() -> None:
    proxy = HttpProxy.at("http://me:se%40cret@proxy:3128")
    assert proxy.url == "http://proxy:3128"
    assert proxy.headers == {"proxy-authorization": "Basic bWU6c2VAY3JldA=="}
    assert repr(proxy) == "HttpProxy(url='http://proxy:3128')"
