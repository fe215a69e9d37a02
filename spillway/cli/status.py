"""`spillway status`: who is ready, how busy the engine is, which providers there are, how the targets stand."""

from __future__ import annotations

import asyncio

from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli import reach
from spillway.cli.layout import ENGINE, SIMULATOR
from spillway.cli.probe import Prober, listens
from spillway.cli.reach import Reach
from spillway.cli.terminal import money, out, plain, quiet, style_of, word
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.v1.cloud_pb2_grpc import CloudProxyServiceStub
from spillway.v1.engine_pb2_grpc import EngineTelemetryServiceStub
from spillway.v1.router_admin_pb2_grpc import RouterAdminServiceStub

ASK_S = 2.0
_COLOURS = {"ready": "green", "not ready": "yellow", "no answer": "red"}
_SEVERITY = [
    v1.BREAKER_STATE_UNSPECIFIED,
    v1.BREAKER_STATE_CLOSED,
    v1.BREAKER_STATE_HALF_OPEN,
    v1.BREAKER_STATE_OPEN,
]
_STATE_COLOURS = dict(zip(_SEVERITY, ("dim", "green", "yellow", "red"), strict=True))


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
    engines = [name for name in addresses if name.partition(" ")[0] == ENGINE]
    loads, providers, router = await asyncio.gather(
        asyncio.gather(*(_load(addresses[name], key) for name in engines)),
        _providers(addresses.get("cloud_proxy"), key),
        _router(found.router, key),
    )
    said = {**dict(zip(engines, loads, strict=True)), "cloud_proxy": providers, "router": describe_router(router)}
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("service", "address", "health", ""):
        table.add_column(column, no_wrap=column != "")
    for name, place in addresses.items():
        state = states[name]
        table.add_row(
            Text(name, style_of(name)), place, Text(state, _COLOURS[state]), Text(plain(said.get(name, "")), "dim")
        )
    console = out()
    console.print(table)
    if isinstance(router, v1.GetStatusResponse):
        console.print()
        console.print(target_table(router))
        if router.spend:
            console.print()
            console.print(spend_table(router))
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
    if load.state not in (v1.ENGINE_STATE_UNSPECIFIED, v1.ENGINE_STATE_SERVING):
        parts.append(word(v1.EngineState, load.state))
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


async def _providers(address: str | None, key: str | None) -> str:
    if address is None:
        return ""
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
    if provider.HasField("retention_days"):
        parts.append(f"kept {provider.retention_days} d" if provider.retention_days else "not kept")
    if not provider.has_key and not provider.simulated:
        parts.append("no key")
    for limit in provider.limits:
        left = f"{limit.remaining} of " if limit.HasField("remaining") else ""
        parts.append(f"{left}{limit.limit} {limit.name.replace('_', ' ')}")
    return ", ".join(parts)


async def _router(address: str, key: str | None) -> v1.GetStatusResponse | SpillwayError:
    remote = Remote(address, tracing=Tracing("client"), key=key)
    try:
        stub = RouterAdminServiceStub(remote.channel)
        told: v1.GetStatusResponse = await remote.unary(
            stub.GetStatus, v1.GetStatusRequest(), _call(), span_name="GetStatus"
        )
        return told
    except SpillwayError as error:
        return error
    finally:
        await remote.close()


def describe_router(told: v1.GetStatusResponse | SpillwayError) -> str:
    """Return what a router says of itself beside its targets, or why it does not."""
    if isinstance(told, SpillwayError):
        return "" if told.reason == "TARGET_DOWN" else f"{told.reason}: {told.message}"
    parts = [f"policy {told.policy_revision}", f"up {told.uptime_s:.0f} s"]
    fatal = sum(finding.fatal for finding in told.findings)
    if fatal:
        parts.append(f"{fatal} errors keep the policy file out")
    if told.routers > 1:
        parts.append(f"{told.routers} routers")
    if told.HasField("cache"):
        given = told.cache.hits + told.cache.shared
        parts.append(f"cache {given} of {given + told.cache.misses}, saved {money(told.cache.saved_nano_usd)}")
    failing = [name for name in told.resolutions if name.why]
    parts += [f"{name.address}: {name.why}, {len(name.addresses)} addresses kept" for name in failing]
    if told.HasField("ledger") and (told.ledger.pending or told.ledger.lost):
        parts.append(f"ledger {told.ledger.pending} waiting, {told.ledger.lost} lost")
    if told.ledger.recovered:
        parts.append(f"{told.ledger.recovered} attempts of routers that died")
    return ", ".join(parts)


def target_table(told: v1.GetStatusResponse) -> Table:
    """Return every target of a router with what its breakers hold against it, and what its limits do."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("target", "where", "model", "breaker", ""):
        table.add_column(column, no_wrap=column != "")
    for target in told.targets:
        worst = max(
            (breaker.state for breaker in target.breakers), key=_SEVERITY.index, default=v1.BREAKER_STATE_CLOSED
        )
        held = (target.unresolved, target.no_room, *map(describe_breaker, target.breakers))
        where = f"{word(v1.TargetKind, target.kind)}{' router' if target.router else ''}, {target.region}"
        table.add_row(
            Text(plain(target.target), "bold"),
            Text(plain(where), "dim"),
            plain(target.model or "-"),
            Text("down", "red")
            if target.unresolved
            else Text(word(v1.BreakerState, worst).replace("_", " "), _STATE_COLOURS[worst]),
            Text(plain("; ".join(filter(None, held))), "dim"),
        )
    return table


def spend_table(told: v1.GetStatusResponse) -> Table:
    """Return what tenants with a budget have spent."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("tenant", "today", "this month", "held"):
        table.add_column(column, no_wrap=True, justify="left" if column == "tenant" else "right")
    for spend in told.spend:
        amounts = (spend.day_nano_usd, spend.month_nano_usd, spend.held_nano_usd)
        table.add_row(Text(plain(spend.tenant), "bold"), *map(money, amounts))
    return table


def describe_breaker(breaker: v1.BreakerStatus) -> str:
    """Return what one breaker holds against a target."""
    said = f"{breaker.kind}: {breaker.why}" if breaker.kind else breaker.why
    if breaker.state == v1.BREAKER_STATE_OPEN:
        return f"{said}, for {breaker.left_s:.0f} s more"
    return said if breaker.state == v1.BREAKER_STATE_HALF_OPEN else f"{said}, gets {breaker.share:.0%}"


def _call() -> Call:
    return Call("status", Deadline.after(ASK_S))
