"""Composition root of the router."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from spillway.deadline import Clock
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.rpc.remote import Remote
from spillway.rpc.server import Server
from spillway.telemetry.tracing import Tracing

from .attempt import TargetClient
from .dispatch import Dispatch, Limits
from .http.edge import application
from .http.listener import Listener
from .journal import Keep
from .judge import Judge
from .ledger import Ledger
from .policy import Policy
from .router import Router
from .servicer import services
from .settings import PolicySettings, RouterSettings
from .target import Target


@dataclass(frozen=True, slots=True)
class App:
    """A running router."""

    server: Server
    router: Router
    http: Listener | None = None
    """The OpenAI-compatible edge, where one is asked for."""

    async def died(self) -> str:
        """A router has nothing that can die under it."""
        await asyncio.Event().wait()
        return ""


@asynccontextmanager
async def build(
    settings: RouterSettings,
    *,
    keep: Keep | None = None,
    tracing: Tracing | None = None,
    clock: Clock = time.monotonic,
) -> AsyncIterator[App]:
    """Serve a router for the block. `keep` takes the place of the ledger that `settings` name."""
    async with AsyncExitStack() as stack:
        tracing = tracing or Tracing(settings.name, settings.telemetry)
        stack.callback(tracing.close)
        if keep is None and settings.ledger is not None:
            ledger = Ledger(settings.ledger)
            await ledger.start()
            stack.push_async_callback(ledger.close)
            keep = ledger.keep

        def remote(address: str, name: str) -> Remote:
            return Remote(
                address,
                tracing=tracing,
                key=settings.target_key,
                max_receive_bytes=settings.server.max_receive_bytes,
                name=name,
            )

        targets = [Target.declared(declared) for declared in settings.targets]
        clients = {target.name: TargetClient(target, remote(target.address, target.name)) for target in targets}
        for client in clients.values():
            stack.push_async_callback(client.close)
        judge = None
        if settings.validator is not None:
            validator = remote(settings.validator.address, "validator")
            stack.push_async_callback(validator.close)
            judge = Judge(validator, settings.validator.timeout_s)
        router = Router(
            policy=policy_of(settings.policy),
            targets=targets,
            clients=clients,
            dispatch=Dispatch(settings.name, clients, judge, limits_of(settings.policy)),
            keep=keep or (lambda attempt, call: None),
            tracing=tracing,
            clock=clock,
        )
        server = Server(settings.server, services(router), tracing=tracing, clock=clock)
        await server.start()
        stack.push_async_callback(server.close)
        http = None
        if settings.http.listen is not None:
            edge = application(
                router,
                settings=settings.http,
                server=settings.server,
                keys=server.keys,
                ready=lambda: server.health.ready,
                tracing=tracing,
                clock=clock,
                now=time.time,
            )
            http = Listener(settings.http, edge)
            await http.start()
            server.ends_with(http)
        await server.health.set_ready(True)
        yield App(server, router, http)


def policy_of(settings: PolicySettings) -> Policy:
    """The rules that `settings` state."""
    return Policy(
        revision=settings.revision,
        data_policy=DataPolicy(
            Residency[settings.residency.upper()], settings.regions, Sensitivity[settings.sensitivity.upper()]
        ),
        local_context_limit=settings.local_context_limit,
        complex_prefers=settings.complex_prefers,
        cloud_sensitivity_limit=Sensitivity[settings.cloud_sensitivity_limit.upper()],
        min_bits_for={str(task): bits for task, bits in settings.min_bits_for.items()},
    )


def limits_of(settings: PolicySettings) -> Limits:
    """How patient dispatch is by `settings`."""
    return Limits(
        constrained_retries=settings.constrained_retries,
        first_token_share=settings.first_token_share,
        idle_s=settings.idle_s,
        probe_tokens=settings.probe_tokens,
    )
