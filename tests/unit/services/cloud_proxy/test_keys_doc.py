"""The example of docs/providers/keys.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from services.cloud_proxy.http_proxy import HttpProxy
from services.cloud_proxy.key_files import read_keys
from services.cloud_proxy.settings import CloudProxySettings

PAGE = Path(__file__).parents[4] / "docs" / "providers" / "keys.md"


def test_the_example_of_the_page_is_read_as_the_page_says(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    told = yaml.safe_load(found[1].replace("/run/secrets", str(tmp_path)))
    (tmp_path / "openai").mkdir()
    for name in ("openai_third", "openai/fourth", "openai/fifth"):
        (tmp_path / name).write_text(f"sk-{name}")
    provider = CloudProxySettings.model_validate(told["cloud_proxy"]).providers[0]
    keys, _ = read_keys("p", provider, {"OPENAI_API_KEY": "sk-1", "OPENAI_SECOND_KEY": "sk-2"})
    assert keys is not None
    assert list(keys) == [
        "env:OPENAI_API_KEY",
        "env:OPENAI_SECOND_KEY",
        f"file:{tmp_path}/openai_third",
        "file:fifth",
        "file:fourth",
    ]
    assert HttpProxy.at(provider.proxy or "").url == "http://proxy.site:3128"
    assert "password" not in repr(provider)
