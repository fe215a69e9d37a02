"""`spillway cost` and `spillway providers`: what an answer of a provider would cost, and which providers there are."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli import failure, operator, reach
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, money, out, plain
from spillway.client import Options
from spillway.client.request import build_spec
from spillway.errors import SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.v1.cloud_pb2_grpc import CloudProxyServiceStub

T = TypeVar("T")

ASK_S = 10.0


def cost(prompt: str, wanted: Options, tenant: str, *, address: str | None, key: str | None, as_json: bool) -> int:
    """Print what an answer to `prompt` would cost by each provider's model; return the exit code."""
    try:
        spec = build_spec(prompt, wanted)
    except SpillwayError as error:
        return failure.tell(error, reach.find(None), err())

    async def ask(remote: Remote, call: Call) -> int:
        stub, request = CloudProxyServiceStub(remote.channel), v1.EstimateCostRequest(spec=spec, tenant=tenant)
        told: v1.EstimateCostResponse = await remote.unary(stub.EstimateCost, request, call, span_name="EstimateCost")
        _print(told, told.estimates, cost_table, as_json)
        return 0

    return _run(ask, address, key)


def providers(*, ask: bool, address: str | None, key: str | None, as_json: bool) -> int:
    """Print the providers, and with `ask` what each says it serves; return the exit code."""

    async def asked(remote: Remote, call: Call) -> int:
        stub, request = CloudProxyServiceStub(remote.channel), v1.ListProvidersRequest(ask=ask)
        told: v1.ListProvidersResponse = await remote.unary(
            stub.ListProviders, request, call, span_name="ListProviders"
        )
        _print(told, told.providers, provider_table, as_json)
        return 0

    return _run(asked, address, key)


def cost_table(estimates: Sequence[v1.CostEstimate]) -> Table:
    """Return one row for each estimate; a dash is an unknown price, or an answer that nothing bounds."""
    drawn = table("target", "#prompt", "#answer", "#at most", "#costs about", "#at most", "price")
    for each in estimates:
        known = (
            each.expected_cost_nano_usd if each.HasField("expected_cost_nano_usd") else None,
            each.max_cost_nano_usd if each.HasField("max_cost_nano_usd") else None,
        )
        drawn.add_row(
            Text(plain(each.target), "bold"),
            str(each.prompt_tokens),
            str(each.expected_completion_tokens),
            str(each.max_completion_tokens) if each.HasField("max_completion_tokens") else "-",
            *map(money, known),
            Text(plain(" of ".join(filter(None, (each.price_source, each.price_date))) or "unknown"), "dim"),
        )
    return drawn


def provider_table(told: Sequence[v1.Provider]) -> Table:
    """Return one row for each provider."""
    drawn = table("provider", "wire", "region", "kept", "key", "models")
    for each in told:
        name = Text(plain(each.name), "bold")
        if each.simulated:
            name.append(" SIMULATED", "yellow")
        drawn.add_row(
            name,
            plain(each.wire),
            plain(each.region),
            days(each.retention_days if each.HasField("retention_days") else None),
            "yes" if each.has_key else "no",
            plain(_models(each)),
        )
    return drawn


def days(count: int | None) -> str:
    """Write for how long content is kept; a dash for unknown."""
    return "-" if count is None else "not" if count == 0 else f"{count} d"


def _models(provider: v1.Provider) -> str:
    if provider.served_models_error:
        return f"does not say: {provider.served_models_error}"
    return ", ".join(provider.served_models or provider.models)


def table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with # holds numbers."""
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        drawn.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left")
    return drawn


def _print(told: Message, rows: Sequence[T], drawn: Callable[[Sequence[T]], Table], as_json: bool) -> None:
    if as_json:
        print(json.dumps(MessageToDict(told, preserving_proto_field_name=True), indent=2))
    else:
        out().print(drawn(rows))


def _run(ask: Callable[[Remote, Call], Awaitable[int]], address: str | None, key: str | None) -> int:
    proxy = address or reach.find(None).addresses().get("cloud_proxy", "")
    if not proxy:
        err().print("the mesh in this folder has no cloud proxy: no provider is configured")
        return failure.EXIT_FAILED
    return operator.run(ask, Reach(proxy), key, seconds=ASK_S)
