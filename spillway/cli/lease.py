"""`spillway lease`: who may call the runtimes that take few calls at once, and having it given back."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from spillway import v1
from spillway.cli import operator, reach
from spillway.cli.terminal import out, plain
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.v1.router_admin_pb2_grpc import RouterAdminServiceStub


def show(name: str, *, address: str | None, key: str | None) -> int:
    """Print the lease `name`, or all of them; return the exit code."""

    async def ask(remote: Remote, call: Call) -> int:
        stub = RouterAdminServiceStub(remote.channel)
        request = v1.ListLeasesRequest(name=name)
        told: v1.ListLeasesResponse = await remote.unary(stub.ListLeases, request, call, span_name="ListLeases")
        out().print(table(list(told.leases)) if told.leases else "no lease was taken within a day")
        return 0

    return operator.run(ask, reach.find(address), key)


def release(name: str, *, address: str | None, key: str | None) -> int:
    """Have the calls that hold the lease end; return the exit code."""

    async def ask(remote: Remote, call: Call) -> int:
        stub = RouterAdminServiceStub(remote.channel)
        request = v1.ReleaseLeaseRequest(name=name)
        told: v1.ReleaseLeaseResponse = await remote.unary(stub.ReleaseLease, request, call, span_name="ReleaseLease")
        holders = told.lease.holders
        if not holders:
            out().print(plain(f"{name}: nobody holds it"), markup=False)
        for holder in holders:
            said = f"{name}: {holder.owner} is told to end {holder.request_id}"
            out().print(plain(f"{said}; free in {holder.left_s:.0f} s at the latest"), markup=False)
        return 0

    return operator.run(ask, reach.find(address), key)


def table(leases: list[v1.Lease]) -> Table:
    """Return one row for each holder, and one for a lease that is free."""
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("lease", "held by", "request", "since", "left", "fencing", "waiting"):
        drawn.add_column(column, no_wrap=column != "request")
    for lease in leases:
        taken = f"{len(lease.holders)}/{lease.slots}"
        name = Text(plain(f"{lease.name} {taken}" if lease.slots > 1 else lease.name))
        if not lease.holders:
            drawn.add_row(name, Text("free", "green"), "", "", "", "", str(lease.waiting))
        for holder in lease.holders:
            left = Text(f"{holder.left_s:.1f} s" + (", released" if holder.released else ""))
            drawn.add_row(
                name,
                Text(plain(holder.owner)),
                Text(plain(holder.request_id)),
                f"{holder.held_s:.1f} s",
                left,
                str(holder.fencing_token),
                str(lease.waiting),
            )
    return drawn
