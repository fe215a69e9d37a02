"""`spillway status`: who is ready, how busy the engine is, which providers there are."""

from __future__ import annotations

import asyncio

from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli import reach
from spillway.cli.layout import SIMULATOR
from spillway.cli.probe import Prober, listens
from spillway.cli.reach import Reach
from spillway.cli.terminal import out, plain, quiet, style_of
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.v1.cloud_pb2_grpc import CloudProxyServiceStub
from spillway.v1.engine_pb2_grpc import EngineTelemetryServiceStub

ASK_S = 2.0
_COLOURS = {"ready": "green", "not ready": "yellow", "no answer": "red"}


def run(*, address: str | None, key: str | None) -> int:
    """Print the state of the mesh; return 0 if all of it is ready."""
    quiet()
    return asyncio.run(_status(reach.find(address), key))


async def _status(found: Reach, key: str | None) -> int:
    addresses = found.addresses()
    async with Prober.open() as prober:
        states = dict(
            zip(
                addresses,
                await asyncio.gather(*(_state(prober, name, place) for name, place in addresses.items())),
                strict=True,
            )
        )
    load, providers = await asyncio.gather(
        _load(addresses.get("local_engine", ""), key), _providers(addresses.get("cloud_proxy", ""), key)
    )
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("service", "address", "health", ""):
        table.add_column(column, no_wrap=column != "")
    for name, place in addresses.items():
        state = states[name]
        said = {"local_engine": load, "cloud_proxy": providers}.get(name, "")
        table.add_row(Text(name, style_of(name)), place, Text(state, _COLOURS[state]), Text(plain(said), "dim"))
    console = out()
    console.print(table)
    if found.mesh is None:
        console.print("no mesh was started in this folder: these are the default addresses", style="dim")
    return 0 if all(state == "ready" for state in states.values()) else 1


async def _state(prober: Prober, name: str, address: str) -> str:
    if name == SIMULATOR:
        return "ready" if await listens(address) else "no answer"
    return await prober.state(address)


async def _load(address: str, key: str | None) -> str:
    remote = Remote(address, tracing=Tracing("client"), key=key)
    try:
        stub = EngineTelemetryServiceStub(remote.channel)
        response = await remote.unary(stub.GetLoad, v1.GetLoadRequest(), _call(), span_name="GetLoad")
    except SpillwayError as error:
        return "" if error.reason == "TARGET_DOWN" else error.reason
    finally:
        await remote.close()
    return describe_load(response.load)


def describe_load(load: v1.Load) -> str:
    """Return what the engine says of itself, leaving out what it does not say."""
    parts = []
    if load.HasField("running"):
        parts.append(f"{load.running} running")
    if load.HasField("waiting"):
        parts.append(f"{load.waiting} waiting")
    if load.HasField("kv_cache_usage"):
        parts.append(f"KV cache {load.kv_cache_usage:.0%}")
    if load.HasField("tokens_per_second"):
        parts.append(f"{load.tokens_per_second:.0f} tokens/s")
    if load.HasField("prefix_cache_hit_rate"):
        parts.append(f"prefix hits {load.prefix_cache_hit_rate:.0%}")
    if load.HasField("age_ms"):
        parts.append(f"{load.age_ms / 1000:.1f} s ago")
    return ", ".join(parts) or "says nothing of its load"


async def _providers(address: str, key: str | None) -> str:
    remote = Remote(address, tracing=Tracing("client"), key=key)
    try:
        stub = CloudProxyServiceStub(remote.channel)
        response = await remote.unary(stub.ListProviders, v1.ListProvidersRequest(), _call(), span_name="ListProviders")
    except SpillwayError as error:
        return "" if error.reason == "TARGET_DOWN" else error.reason
    finally:
        await remote.close()
    return "; ".join(describe_provider(provider) for provider in response.providers)


def describe_provider(provider: v1.Provider) -> str:
    """Return one provider in a few words, SIMULATED first where it is."""
    parts = [f"{provider.name}{' SIMULATED' if provider.simulated else ''}: {', '.join(provider.models)}"]
    parts.append(f"region {provider.region}")
    if not provider.has_key and not provider.simulated:
        parts.append("no key")
    for limit in provider.limits:
        left = f"{limit.remaining} of " if limit.HasField("remaining") else ""
        parts.append(f"{left}{limit.limit} {limit.name.replace('_', ' ')}")
    return ", ".join(parts)


def _call() -> Call:
    return Call("status", Deadline.after(ASK_S))
