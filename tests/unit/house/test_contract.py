"""What the protos promise is served, and what was generated from them loads."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from spillway import v1

SERVED_BY = {
    "InferenceService": ("router", "local_engine", "cloud_proxy"),
    "RouterService": ("router",),
    "RouterAdminService": ("router",),
    "EngineTelemetryService": ("local_engine",),
    "EngineAdminService": ("local_engine",),
    "CloudProxyService": ("cloud_proxy",),
    "ValidatorService": ("validator",),
}
"""Which services of ours serve which service of the contract."""


def files() -> list[FileDescriptor]:
    names = [name for _, name, _ in pkgutil.iter_modules(v1.__path__) if name.endswith("_pb2")]
    return [importlib.import_module(f"spillway.v1.{name}").DESCRIPTOR for name in names]


def contract() -> dict[str, ServiceDescriptor]:
    return {name: service for file in files() for name, service in file.services_by_name.items()}


def servicers(package: str) -> list[type]:
    there = pkgutil.iter_modules(importlib.import_module(f"services.{package}").__path__)
    modules = [
        importlib.import_module(f"services.{package}.{each.name}") for each in there if each.name.endswith("servicer")
    ]
    return [
        found
        for module in modules
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__
    ]


def promised(service: str) -> type[Any]:
    """The generated base class of `service`, whose rpcs all answer UNIMPLEMENTED."""
    module = contract()[service].file.name.removesuffix(".proto").replace("/", ".")
    base: type[Any] = getattr(importlib.import_module(f"{module}_pb2_grpc"), f"{service}Servicer")
    return base


def test_every_service_of_the_contract_is_somebodys() -> None:
    assert set(SERVED_BY) == set(contract())


@pytest.mark.parametrize(
    ("service", "package"), [(service, package) for service, packages in SERVED_BY.items() for package in packages]
)
def test_every_rpc_that_is_declared_is_served(service: str, package: str) -> None:
    base = promised(service)
    found = [servicer for servicer in servicers(package) if issubclass(servicer, base)]
    assert len(found) == 1, f"services.{package}.servicer has {len(found)} servicers of {service}"
    missing = [
        rpc.name for rpc in contract()[service].methods if getattr(found[0], rpc.name) is getattr(base, rpc.name)
    ]
    assert not missing


def test_the_flat_package_has_every_message_and_enum_value() -> None:
    for file in files():
        for name in [*file.message_types_by_name, *file.enum_types_by_name]:
            assert hasattr(v1, name)
        for enum in file.enum_types_by_name.values():
            for value in enum.values:
                assert getattr(v1, value.name) == value.number
