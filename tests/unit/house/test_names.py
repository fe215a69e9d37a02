"""Names that others build on, and options that gRPC would ignore in silence, are constants in one place."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from spillway.rpc.options import KNOWN
from spillway.telemetry import names

ROOT = Path(__file__).parents[3]
OURS = [
    path for folder in ("spillway", "services") for path in (ROOT / folder).rglob("*.py") if path.parent.name != "v1"
]


def calls() -> Iterator[tuple[str, ast.Call, str, str]]:
    """Every method call of our code: its place, the call, the name before the dot and the one after it."""
    for path in OURS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                receiver = ast.unparse(node.func.value)
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node, receiver, node.func.attr


def spelled_out(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def constants() -> dict[str, str]:
    return {name: value for name, value in vars(names).items() if name.isupper()}


def test_span_and_attribute_names_are_constants() -> None:
    loose = []
    for place, call, receiver, method in calls():
        named = method == "set_attribute" or (method == "start" and receiver.endswith("tracing"))
        loose += [place for argument in call.args[:1] if named and spelled_out(argument)]
        attributes = [key.value for key in call.keywords if key.arg == "attributes"]
        if method == "set_attributes":
            attributes += call.args
        for mapping in attributes:
            keys = mapping.keys if isinstance(mapping, ast.Dict) else []
            loose += [place for key in keys if key is not None and spelled_out(key)]
    assert not loose


def test_no_two_names_are_the_same() -> None:
    values = list(constants().values())
    assert len(values) == len(set(values))


def test_every_grpc_option_is_one_that_grpc_knows() -> None:
    core = importlib.import_module("grpc._cython.cygrpc")
    library = Path(str(core.__file__)).read_bytes()
    ours = {"spillway.channel"}  # makes two channels differ; read by nobody
    assert [option for option in sorted(KNOWN - ours) if option.encode() not in library] == []


def test_every_channel_and_server_takes_its_options_from_one_place() -> None:
    checked = ("channel_options(", "server_options(")
    loose = [
        place
        for place, call, receiver, method in calls()
        if receiver.endswith("grpc.aio") and method in ("insecure_channel", "secure_channel", "server")
        for options in [ast.unparse(key.value) for key in call.keywords if key.arg == "options"]
        if not options.startswith(checked)
    ]
    assert not loose
