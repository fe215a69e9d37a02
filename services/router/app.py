"""Composition root of the router."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from spillway.deadline import Clock
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.rpc.remote import Remote
from spillway.rpc.server import Server
from spillway.store.redis import Store
from spillway.telemetry.tracing import Tracing

from .attempt import TargetClient
from .cache import Cache
from .cache_key import epoch_of
from .dispatch import Dispatch, Limits
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
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[App]:
    """Serve a router for the block. `keep` takes the place of the ledger that `settings` name.

    `clock` is monotonic, `wall` in seconds since the epoch.
    """
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
        cache = None
        if settings.cache.enabled:
            store = Store(settings.cache.store or settings.store)
            stack.push_async_callback(store.close)
            cache = Cache(settings.cache, store, epoch=epoch_of(targets), clock=clock, wall=wall)
            stack.push_async_callback(cache.close)
        router = Router(
            policy=policy_of(settings.policy),
            targets=targets,
            clients=clients,
            dispatch=Dispatch(settings.name, clients, judge, limits_of(settings.policy)),
            keep=keep or (lambda attempt, call: None),
            tracing=tracing,
            clock=clock,
            cache=cache,
        )
        server = Server(settings.server, services(router), tracing=tracing, clock=clock)
        await server.start()
        stack.push_async_callback(server.close)
        await server.health.set_ready(True)
        yield App(server, router)


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
