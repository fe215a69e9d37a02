"""`spillway breaker` and `spillway policy reload`: what an operator has a running router do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from spillway import v1
from spillway.cli import failure, reach
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, out, plain, quiet
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.v1.router_admin_pb2_grpc import RouterAdminServiceStub

ASK_S = 5.0


def reset_breaker(target: str, *, address: str | None, key: str | None) -> int:
    """Close every breaker of `target`; return the exit code."""

    async def reset(remote: Remote, call: Call) -> int:
        stub = RouterAdminServiceStub(remote.channel)
        request = v1.ResetBreakerRequest(target=target)
        told: v1.ResetBreakerResponse = await remote.unary(stub.ResetBreaker, request, call, span_name="ResetBreaker")
        for each in told.targets or (told.target,):
            out().print(f"{plain(each.target)}: every breaker is closed", markup=False)
        return 0

    return run(reset, reach.find(address), key)


def reload_policy(*, address: str | None, key: str | None) -> int:
    """Have the policy file read; return 0 if what it says is in force."""

    async def reload(remote: Remote, call: Call) -> int:
        stub = RouterAdminServiceStub(remote.channel)
        told: v1.ReloadPolicyResponse = await remote.unary(
            stub.ReloadPolicy, v1.ReloadPolicyRequest(), call, span_name="ReloadPolicy"
        )
        console, fatal = out(), any(finding.fatal for finding in told.findings)
        for finding in told.findings:
            said = f"{'error' if finding.fatal else 'warning'}: {finding.path}: {finding.message}"
            console.print(plain(said), markup=False)
        kept = "the file is not in force; still " if fatal else ""
        console.print(f"{kept}revision {plain(told.policy_revision)}", markup=False)
        return failure.EXIT_FAILED if fatal else 0

    return run(reload, reach.find(address), key)


def run(ask: Callable[[Remote, Call], Awaitable[int]], found: Reach, key: str | None, *, seconds: float = ASK_S) -> int:
    """Return what `ask` returns within `seconds`, or the exit code of the error it raised, which is told."""
    quiet()

    async def asked() -> int:
        remote = Remote(found.router, tracing=Tracing("client"), key=key)
        try:
            return await ask(remote, Call("operator", Deadline.after(seconds)))
        finally:
            await remote.close()

    try:
        return asyncio.run(asked())
    except SpillwayError as error:
        return failure.tell(error, found, err())
    except KeyboardInterrupt:
        return failure.EXIT_INTERRUPTED
