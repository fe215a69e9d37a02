"""Several engines in one configuration: who is where, and what routers take them for."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from services.cloud_proxy.settings import CloudProxySettings
from services.local_engine.settings import LocalEngineSettings
from services.router.settings import RouterSettings
from services.validator.settings import ValidatorSettings
from spillway import settings
from spillway.settings import ServiceSettings, SettingsError

S = TypeVar("S", bound=ServiceSettings)

TWO = """
shared: {logs: {level: debug}}
local_engine: {max_tokens: 100, vllm: {max_model_len: 1024}}
local_engines:
  small: {}
  large: {max_tokens: 200, share: {memory: 0.5, cores: 2}, vllm: {max_num_seqs: 3}}
"""


def load(folder: Path, text: str, name: str | None, **environ: str) -> LocalEngineSettings:
    return read("local_engine", LocalEngineSettings, folder, text, name, **environ)


def read(section: str, model: type[S], folder: Path, text: str, name: str | None = None, **environ: str) -> S:
    file = folder / "mesh.yaml"
    file.write_text(text)
    return settings.load(section, model, path=file, environ=environ, name=name)


def mistakes(folder: Path, text: str, name: str | None = "small", **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(folder, text, name, **environ)
    return str(raised.value).splitlines()


def test_an_engine_has_its_own_settings_over_those_of_all(tmp_path: Path) -> None:
    small, large = (load(tmp_path, TWO, name) for name in ("small", "large"))
    assert (small.max_tokens, large.max_tokens) == (100, 200)
    assert (large.vllm.max_model_len, large.vllm.max_num_seqs, large.share.cores) == (1024, 3, 2)
    assert (small.target, small.tier, large.target, large.tier) == ("small", "small", "large", "large")
    assert small.server.listen == "127.0.0.1:7071"
    assert large.server.listen == "127.0.0.1:7074"  # the ports between are the proxy's and the validator's
    assert large.logs.level == "debug"
    assert small.machine is not None
    assert small.machine.engine == "small"
    assert list(small.machine.engines) == ["small", "large"]
    assert small.machine.engines["large"].share.memory == 0.5


def test_the_environment_lies_over_both(tmp_path: Path) -> None:
    environ = {"SPILLWAY_LOCAL_ENGINES__LARGE__MAX_TOKENS": "7", "SPILLWAY_LOCAL_ENGINE__REGION": "here"}
    assert load(tmp_path, TWO, "large", **environ).max_tokens == 7
    small = load(tmp_path, TWO, "small", **environ)
    assert (small.max_tokens, small.region) == (100, "here")
    told = mistakes(tmp_path, TWO, SPILLWAY_LOCAL_ENGINES__LARGGE__MAX_TOKENS="7")
    assert told == ["local_engines.largge: the environment sets it; the file names small, large"]


def test_one_of_several_is_named_and_the_only_one_need_not_be(tmp_path: Path) -> None:
    assert mistakes(tmp_path, TWO, None)[0].startswith("local_engines: there are small, large: say which")
    assert mistakes(tmp_path, TWO, "huge") == ["local_engines.huge: is not there; there are: small, large"]
    assert load(tmp_path, "local_engines: {only: {tier: large}}", None).tier == "large"
    assert load(tmp_path, "local_engines: {}", None).machine is None


def test_a_share_of_a_machine_that_nobody_shares_is_a_mistake(tmp_path: Path) -> None:
    assert "share, tier: are for the engines" in mistakes(tmp_path, "local_engine: {share: {cores: 1}}", None)[0]
    all_alike = "{local_engine: {share: {cores: 1}}, local_engines: {small: {}, large: {}}}"
    assert load(tmp_path, all_alike, "large").share.cores == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("local_engines: {small: {vllm: {max_lenn: 1}}}", "local_engines.small.vllm.max_lenn: unknown setting"),
        (
            "{local_engine: {vllm: {max_lenn: 1}}, local_engines: {small: {}}}",
            "local_engine.vllm.max_lenn: unknown setting",
        ),
        ("{shared: {lox: 1}, local_engines: {small: {}}}", "shared.lox: unknown setting"),
        (
            "local_engines: {small: {}, large: {share: {coares: 1}}}",
            "local_engines.large.share.coares: unknown setting",
        ),
        ("local_engines: {small: {share: {memory: 2}}}", "local_engines.small.share.memory: Input should be less"),
        ("local_engines: {small: {tier: huge}}", "local_engines.small.tier: Input should be 'small' or 'large'"),
        ("local_engines: {Small: {}}", "local_engines.Small: a name has small letters"),
        ("local_engines: [small]", "local_engines: expected a mapping, found list"),
        ("local_engines: {small: [1]}", "local_engines.small: expected a mapping, found list"),
        (
            "local_engines: {small: {server: {listen: 'a:5'}}, large: {server: {listen: 'b:5'}}}",
            "local_engines.large.server.listen: local_engines.small listens on port 5",
        ),
        (
            "local_engines: {small: {server: {listen: 'a:7072'}}}",
            "local_engines.small.server.listen: cloud_proxy.server.listen listens on port 7072",
        ),
        (
            "{local_engine: {server: {admin_listen: 'a:9000'}}, local_engines: {small: {}, large: {}}}",
            "local_engines.large.server.admin_listen: local_engines.small.server.admin_listen listens on port 9000",
        ),
        (
            "local_engines: {small: {server: {listen: 'a:5', admin_listen: 'a:5'}}}",
            "local_engines.small.server.admin_listen: local_engines.small listens on port 5",
        ),
        ("local_engines: {7: {tier: large}}", "local_engines.7: a name is text"),
        (
            "local_engines: {small: {}, other: {target: small}}",
            "local_engines.other.target: small is that of local_engines.small too",
        ),
        (
            "{local_engine: {target: one}, local_engines: {small: {}, large: {}}}",
            "local_engines.large.target: one is that of local_engines.small too",
        ),
    ],
)
def test_a_mistake_is_told_with_its_path(tmp_path: Path, text: str, told: str) -> None:
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(told)


def test_without_targets_every_engine_is_one_by_its_tier(tmp_path: Path) -> None:
    router = read("router", RouterSettings, tmp_path, TWO + 'validator: {server: {listen: "validator:7073"}}')
    small, large = router.targets
    assert (small.name, small.tier, small.address, small.context_window) == ("small", "small", "127.0.0.1:7071", 1024)
    assert (large.name, large.tier, large.address, large.region) == ("large", "large", "127.0.0.1:7074", "site")
    assert "regex" in large.capabilities
    assert router.validator is not None
    assert router.validator.address == "validator:7073"


def test_cloud_targets_come_behind_and_a_listed_local_one_needs_no_address(tmp_path: Path) -> None:
    cloud = read("router", RouterSettings, tmp_path, TWO + "cloud_engine: {provider: openai, model: gpt-4o}")
    assert [target.name for target in cloud.targets] == ["small", "large", "openai/gpt-4o"]
    assert read("cloud_proxy", CloudProxySettings, tmp_path, TWO + "cloud_engine: {provider: openai, model: gpt-4o}")
    listed = read("router", RouterSettings, tmp_path, TWO + "router: {targets: [{name: large, kind: local}]}")
    assert [(target.name, target.address) for target in listed.targets] == [("large", "127.0.0.1:7074")]
    elsewhere = read("router", RouterSettings, tmp_path, TWO + "router: {policy_file: policy.yaml}")
    assert elsewhere.targets == ()


def test_engines_before_runtimes_are_targets_with_what_those_can_do(tmp_path: Path) -> None:
    text = "local_engines: {small: {runtime: {kind: ollama, num_ctx: 99, context_window: 99}}, large: {tier: small}}"
    small, large = read("router", RouterSettings, tmp_path, text).targets
    assert "tools" in small.capabilities
    assert (small.context_window, large.tier) == (99, "small")


def test_an_engine_that_is_to_embed_is_a_target_that_embeds(tmp_path: Path) -> None:
    text = "local_engines: {chat: {}, vectors: {vllm: {task: embed}}}"
    chat, vectors = read("router", RouterSettings, tmp_path, text).targets
    assert "embeddings" not in chat.capabilities
    assert vectors.capabilities == {"embeddings", "token_input"}


def test_the_documented_mesh_is_one_that_every_service_takes() -> None:
    file = Path(__file__).parents[3] / "docs" / "machine.yaml"
    router = settings.load("router", RouterSettings, path=file, environ={})
    assert [(target.name, target.tier) for target in router.targets] == [("small", "small"), ("large", "large")]
    for name in ("small", "large"):
        engine = settings.load("local_engine", LocalEngineSettings, path=file, environ={}, name=name)
        assert engine.vllm.cpu.kv_cache_gib == 0.25
    settings.load("validator", ValidatorSettings, path=file, environ={})
