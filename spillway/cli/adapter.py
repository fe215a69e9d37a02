"""`spillway adapter`: the LoRA adapters of a running local engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli import failure, operator, reach
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, out, plain
from spillway.errors import FieldViolation, RequestInvalid
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.v1.engine_admin_pb2_grpc import EngineAdminServiceStub

LOAD_S = 120.0


def show(*, address: str | None, key: str | None) -> int:
    """Print what is loaded; return the exit code."""

    async def ask(remote: Remote, call: Call) -> int:
        stub = EngineAdminServiceStub(remote.channel)
        told: v1.ListAdaptersResponse = await remote.unary(
            stub.ListAdapters, v1.ListAdaptersRequest(), call, span_name="ListAdapters"
        )
        if not told.max_loaded:
            out().print("this engine takes no adapters: see local_engine.vllm.adapters")
        else:
            out().print(table(told) if told.adapters else f"none of at most {told.max_loaded} is loaded")
        return 0

    return _run(ask, address, key)


def load(name: str, path: str, *, address: str | None, key: str | None) -> int:
    """Load the adapter in the folder `path`, or `name`, of the engine's folder of adapters; return the exit code."""

    async def ask(remote: Remote, call: Call) -> int:
        stub = EngineAdminServiceStub(remote.channel)
        request = v1.LoadAdapterRequest(name=name, path=path)
        told: v1.LoadAdapterResponse = await remote.unary(stub.LoadAdapter, request, call, span_name="LoadAdapter")
        said = f"{told.adapter.name}: loaded from {told.adapter.path}, rank {told.adapter.rank}"
        out().print(plain(said), markup=False)
        return 0

    return _run(ask, address, key, seconds=LOAD_S)


def unload(name: str, *, address: str | None, key: str | None, wait_s: float) -> int:
    """Unload an adapter when the requests that use it have ended, within `wait_s` seconds; return the exit code."""

    async def ask(remote: Remote, call: Call) -> int:
        stub = EngineAdminServiceStub(remote.channel)
        await remote.unary(stub.UnloadAdapter, v1.UnloadAdapterRequest(name=name), call, span_name="UnloadAdapter")
        out().print(plain(f"{name}: unloaded"), markup=False)
        return 0

    return _run(ask, address, key, seconds=wait_s)


def _run(
    ask: Callable[[Remote, Call], Awaitable[int]], address: str | None, key: str | None, seconds: float = operator.ASK_S
) -> int:
    try:
        found = engine(address)
    except RequestInvalid as error:
        return failure.tell(error, reach.find(None), err())
    return operator.run(ask, found, key, seconds=seconds)


def engine(address: str | None) -> Reach:
    """Return the local engine at `address`, or of that name; else that of the mesh started in this folder, else the
    default one.

    Raises RequestInvalid where several run here and `address` names none of them.
    """
    found = reach.find(None).engines
    if address is None and len(found) > 1:
        why = f"several local engines run here: name one of {', '.join(found)}"
        raise RequestInvalid(f"address: {why}", fields=[FieldViolation("address", why)])
    return Reach(found.get(address, address) if address else next(iter(found.values())))


def table(told: v1.ListAdaptersResponse) -> Table:
    """Return one row for each adapter."""
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("adapter", "folder", "rank", "running", ""):
        drawn.add_column(column)
    for adapter in told.adapters:
        drawn.add_row(
            Text(plain(adapter.name)),
            Text(plain(adapter.path)),
            str(adapter.rank),
            str(adapter.running),
            "unloading" if adapter.unloading else "",
        )
    return drawn
