"""The compose files, their configuration and the collector's: each names only what the others have."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from spillway import settings

DEPLOY = Path(__file__).parents[3] / "deploy"
SETTINGS = {
    "router": "RouterSettings",
    "local_engine": "LocalEngineSettings",
    "cloud_proxy": "CloudProxySettings",
    "validator": "ValidatorSettings",
}


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


def compose() -> dict[str, Any]:
    return read("compose.yaml")


def mesh() -> dict[str, Any]:
    """The settings of every service, as the service itself reads them from the deployed file."""
    path = DEPLOY / "config" / "spillway.yaml"
    return {
        section: settings.load(
            section, getattr(importlib.import_module(f"services.{section}.settings"), model), path=path, environ={}
        )
        for section, model in SETTINGS.items()
    }


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_follow_the_compose_specification(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / name)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_everything_compose_refers_to_is_declared_and_there() -> None:
    whole = compose()
    for name, service in whole["services"].items():
        assert set(service.get("networks", [])) <= set(whole["networks"]), name
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(whole["volumes"]), name
        assert {config["source"] for config in service.get("configs", [])} <= set(whole["configs"]), name
        assert {secret["source"] for secret in service.get("secrets", [])} <= set(whole["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(whole["services"]), name
    for config in whole["configs"].values():
        assert (DEPLOY / config["file"]).is_file()
    for file in ("compose.yaml", "compose.gpu.yaml"):
        for service in read(file)["services"].values():
            if "build" in service:
                assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_foreign_images_are_pinned_to_a_release() -> None:
    for service in compose()["services"].values():
        if "build" not in service:
            assert service["image"].rpartition(":")[2][0].isdigit()


def test_only_the_cloud_proxy_has_a_way_out_and_the_providers_key() -> None:
    whole = compose()
    assert whole["networks"]["inside"]["internal"] is True
    masquerade = whole["networks"]["published"]["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"]
    assert masquerade == "false"
    assert [name for name, service in whole["services"].items() if "outside" in service["networks"]] == ["cloud_proxy"]
    assert [name for name, service in whole["services"].items() if service.get("secrets")] == ["cloud_proxy"]


def test_only_the_operators_own_machine_reaches_published_ports() -> None:
    for service in compose()["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_our_services_need_no_writable_root_and_no_privilege() -> None:
    services = compose()["services"]
    for name in SETTINGS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]


def test_the_gpu_file_changes_services_that_exist() -> None:
    assert set(read("compose.gpu.yaml")["services"]) <= set(compose()["services"])


def test_services_accept_their_configuration_and_call_each_other_by_name() -> None:
    read_by = mesh()
    ports = {name: found.server.listen.rpartition(":") for name, found in read_by.items()}
    assert {host for host, _, _ in ports.values()} == {"0.0.0.0"}
    listening = {f"{name}:{port}" for name, (_, _, port) in ports.items()}
    called = {target.address for target in read_by["router"].targets} | {read_by["router"].validator.address}
    assert called == listening - {f"router:{ports['router'][2]}"}
    services = compose()["services"]
    for found in read_by.values():
        assert found.store.url == "redis://valkey:6379/0"
        assert found.telemetry.otlp_endpoint == "http://collector:4317"
    assert {"valkey", "collector"} <= set(services)


def test_every_cloud_target_is_a_model_that_the_cloud_proxy_has() -> None:
    read_by = mesh()
    models = {
        f"{provider.name}/{model.name}" for provider in read_by["cloud_proxy"].providers for model in provider.models
    }
    assert {target.model for target in read_by["router"].targets if target.kind == "cloud"} <= models


def test_the_providers_key_is_the_mounted_secret() -> None:
    whole = compose()
    mounted = {f"/run/secrets/{secret['source']}" for secret in whole["services"]["cloud_proxy"]["secrets"]}
    assert {str(provider.key_file) for provider in mesh()["cloud_proxy"].providers} == mounted


def test_what_services_write_lands_on_a_volume() -> None:
    services = compose()["services"]
    assert mesh()["router"].ledger.url.startswith("sqlite:////var/lib/spillway/")
    for name in ("router", "local_engine"):
        assert [volume.split(":")[1] for volume in services[name]["volumes"]] == ["/var/lib/spillway"]


def test_containers_get_the_time_that_an_orderly_end_takes() -> None:
    services = compose()["services"]
    for name, found in mesh().items():
        grace_s = float(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > found.server.announce_s + found.server.drain_s


def test_the_collector_uses_what_it_declares_and_declares_what_it_uses() -> None:
    collector = read("otel/collector.yaml")
    pipelines = collector["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines for name in pipeline.get(kind, [])}
        assert used == set(collector[kind])


def test_spans_find_the_collector_and_the_collector_the_trace_store() -> None:
    collector = read("otel/collector.yaml")
    listening = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    for found in mesh().values():
        assert found.telemetry.otlp_endpoint == f"http://collector:{listening}"
    host = collector["exporters"]["otlp/traces"]["endpoint"].partition(":")[0]
    assert host in compose()["services"]
