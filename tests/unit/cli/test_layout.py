from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.cloud_proxy.settings import CloudProxySettings
from services.local_engine.settings import LocalEngineSettings
from services.router.settings import RouterSettings
from services.validator.settings import ValidatorSettings
from spillway.cli import ports, state
from spillway.cli.layout import SERVICES, SIMULATOR, Wanted, lay_out
from spillway.cli.reach import Reach
from spillway.settings import ServiceSettings, SettingsError, load

SETTINGS: dict[str, type[ServiceSettings]] = {
    "router": RouterSettings,
    "local_engine": LocalEngineSettings,
    "cloud_proxy": CloudProxySettings,
    "validator": ValidatorSettings,
}
BASE = 47070


def wanted(folder: Path, **given: object) -> Wanted:
    return Wanted(folder=folder / ".spillway", port_base=BASE, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": "x"}], ids=["simulated", "real"])
@pytest.mark.parametrize("model", [None, "some/model"])
def test_the_written_configuration_is_one_that_every_service_takes(
    tmp_path: Path, environ: dict[str, str], model: str | None
) -> None:
    layout = lay_out(wanted(tmp_path, model=model), environ)
    for name, settings in SETTINGS.items():
        read = load(name, settings, path=layout.config, environ=layout.environ)
        assert read.server.listen == layout.addresses[name]
        if isinstance(read, ValidatorSettings):
            assert read.confidence.aliases == ({} if model else {"local": "bundled"})
        if isinstance(read, RouterSettings):
            assert [target.name for target in read.targets] == ["local", "openai/gpt-4o-mini"]
            assert [target.address for target in read.targets] == [
                layout.addresses["local_engine"],
                layout.addresses["cloud_proxy"],
            ]
            assert read.http.listen == layout.http == f"127.0.0.1:{BASE + 10}"
            assert read.targets[0].context_window == (None if model else 2048)
        if isinstance(read, LocalEngineSettings) and model:
            assert read.model == model


def test_without_a_key_the_cloud_is_simulated_and_the_file_says_so(tmp_path: Path) -> None:
    layout = lay_out(wanted(tmp_path), {})
    read = load("cloud_proxy", CloudProxySettings, path=layout.config, environ={})
    assert layout.simulated_cloud
    assert read.providers[0].simulated
    assert read.providers[0].base_url == f"http://{layout.addresses[SIMULATOR]}/v1"
    assert "SIMULATED" in layout.config.read_text()
    assert SIMULATOR in layout.commands


def test_with_a_key_the_cloud_is_the_real_one_and_the_key_is_not_written(tmp_path: Path) -> None:
    layout = lay_out(wanted(tmp_path), {"OPENAI_API_KEY": "very-secret"})
    read = load("cloud_proxy", CloudProxySettings, path=layout.config, environ={})
    assert not layout.simulated_cloud
    assert not read.providers[0].simulated
    assert read.providers[0].base_url == "https://api.openai.com/v1"
    assert read.providers[0].key_env == "OPENAI_API_KEY"
    assert "very-secret" not in layout.config.read_text()
    assert SIMULATOR not in layout.commands


def test_a_taken_port_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, BASE))
        taken.listen()
        layout = lay_out(wanted(tmp_path), {})
    assert layout.addresses["router"] != f"127.0.0.1:{BASE}"
    assert len(layout.notes) == 1
    assert f"port {BASE} is taken: router listens on" in layout.notes[0]
    assert len(set(layout.addresses.values())) == len(layout.addresses)


def test_a_given_configuration_says_where_the_services_are_and_what_is_embedded(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "shared: {store: {url: 'redis://127.0.0.1:1/0'}}\n"
        "router: {server: {listen: '0.0.0.0:8000'}, http: {listen: '0.0.0.0:8080'}}\n"
        "validator: {server: {listen: 'localhost:8003'}}\n"
        "cloud_proxy: {providers: [{name: openai, region: us, models: [{name: gpt-4o}]}]}\n"
    )
    layout = lay_out(wanted(tmp_path, config=config), {"SPILLWAY_LOCAL_ENGINE__SERVER__LISTEN": "127.0.0.1:9000"})
    assert layout.addresses == {
        "router": "127.0.0.1:8000",
        "validator": "localhost:8003",
        "cloud_proxy": "127.0.0.1:7072",
        "local_engine": "127.0.0.1:9000",
    }
    assert layout.http == "127.0.0.1:8080"
    assert (layout.embeds_store, layout.embeds_collector) == (False, True)
    assert set(layout.commands) == set(SERVICES)


def test_a_given_configuration_with_a_free_port_is_refused_naming_the_setting(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("router: {server: {listen: '127.0.0.1:0'}}\n")
    with pytest.raises(SettingsError, match=r"router\.server\.listen"):
        lay_out(wanted(tmp_path, config=config), {})


def test_a_given_configuration_may_be_in_the_templates_words(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(
        "cloud_engine: {provider: openai, model: gpt-4o}\nobservability: {otlp_endpoint: 'http://collector:4317'}\n"
        "local_engine: {quantization: awq, server: {listen: '0.0.0.0:4711'}}\n"
    )
    layout = lay_out(wanted(tmp_path, config=file), {})

    assert layout.addresses["local_engine"] == "127.0.0.1:4711"
    assert not layout.embeds_collector
    file.write_text("cloud_engine: {provider: openai, model: gpt-4o, nonsense: 1}")
    with pytest.raises(SettingsError, match=r"cloud_engine\.nonsense: unknown setting"):
        lay_out(wanted(tmp_path, config=file), {})


SEVERAL = """
local_engine: {server: {listen: "0.0.0.0:7071"}}
local_engines:
  small: {}
  large: {server: {listen: "127.0.0.1:9000"}}
  third: {}
"""


def test_each_of_several_engines_is_a_process_with_a_name_and_a_port(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(SEVERAL)
    layout = lay_out(wanted(tmp_path, config=config, engine_command=("fake",)), {})
    assert layout.addresses == {
        "validator": "127.0.0.1:7073",
        "router": "127.0.0.1:7070",
        "local_engine small": "127.0.0.1:7071",
        "local_engine large": "127.0.0.1:9000",
        "local_engine third": "127.0.0.1:7074",
    }
    assert layout.commands["local_engine large"] == ("fake", "--config", str(config), "--name", "large")
    assert layout.notes == ("no provider is configured (cloud_proxy.providers): nothing leaves this machine",)
    for name, address in layout.addresses.items():
        service, _, engine = name.partition(" ")
        if engine:
            read = load(service, LocalEngineSettings, path=config, environ=layout.environ, name=engine)
            assert (read.server.listen.rpartition(":")[2], read.target) == (address.rpartition(":")[2], engine)


def test_one_model_is_not_that_of_several_engines(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(SEVERAL)
    with pytest.raises(SettingsError, match=r"--model: is for one engine, .* names small, large, third"):
        lay_out(wanted(tmp_path, config=config, model="some/model"), {})


def test_commands_find_every_engine_by_its_name() -> None:
    running = state.Running(
        pid=1, addresses={"local_engine large": "a:1", "router": "a:0", "local_engine small": "a:2"}
    )
    found = Reach("a:0", running)
    assert list(found.addresses()) == ["router", "local_engine large", "local_engine small"]
    assert found.engines == {"large": "a:1", "small": "a:2"}
    assert Reach("a:0").engines == {"": "127.0.0.1:7071"}
