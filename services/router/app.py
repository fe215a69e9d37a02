"""Composition root of the router."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from spillway.deadline import Clock
from spillway.rpc.remote import Remote
from spillway.rpc.server import Server
from spillway.session.server import Sessions
from spillway.store.redis import Store
from spillway.telemetry.metrics import Metrics
from spillway.telemetry.tracing import Tracing

from .admin_servicer import SCOPES
from .attempts import Attempts
from .breakers import Breakers
from .cache import Cache
from .embedder import Embedder
from .fleet import Fleet
from .gate import Gate
from .http.edge import application
from .http.listener import Listener
from .idempotency import Idempotency
from .inspector import Inspector
from .journal import Keep
from .judge import Judge
from .leases import Leases
from .ledger import Ledger
from .load_watch import load_watch
from .loads import Loads
from .measures import Measures
from .planner import Planner
from .policy_document import opened
from .policy_file import PolicyFile
from .quota_watch import quota_watch
from .quotas import Quotas
from .redactor import Redactor
from .resolution import Resolution, Resolve, looked_up
from .retry_budget import RetryBudget
from .router import Router
from .scorer import Scorer
from .servicer import answer, events, services
from .settings import RouterSettings
from .siblings import Siblings
from .spend import Spend
from .status import Status
from .strategies import strategies
from .vouching import Vouching
from .watch import Watches


@dataclass(frozen=True, slots=True)
class App:
    """A running router."""

    server: Server
    router: Router
    http: Listener | None = None
    """The OpenAI-compatible edge, where one is asked for."""
    metrics: str = ""
    """host:port that Prometheus scrapes, where it may."""

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
    resolve: Resolve = looked_up,
) -> AsyncIterator[App]:
    """Serve a router for the block. `keep` takes the place of the ledger that `settings` name.

    `clock` is monotonic, `wall` in seconds since the epoch; `resolve` finds the addresses of targets that are names.
    """
    async with AsyncExitStack() as stack:
        tracing = tracing or Tracing(settings.name, settings.telemetry)
        stack.callback(tracing.close)
        announce = None
        ledger = None
        if keep is None and settings.ledger is not None:
            ledger = Ledger(settings.ledger, settings.name, clock, wall)
            await ledger.start()
            stack.push_async_callback(ledger.close)
            keep, announce = ledger.keep, ledger.intend

        def remote(address: str, name: str = "", *, spread: bool = False) -> Remote:
            return Remote(
                address,
                tracing=tracing,
                key=settings.target_key,
                max_receive_bytes=settings.server.max_receive_bytes,
                name=name or address,
                spread=spread,
            )

        fleet = Fleet(partial(remote, spread=True), retire_s=settings.server.default_deadline_s)
        stack.push_async_callback(fleet.close)
        judge, scorer, inspector, redactor = None, None, Inspector(None, 0), Redactor(None, 0)
        if settings.validator is not None:
            validator = remote(settings.validator.address, "validator")
            stack.push_async_callback(validator.close)
            judge = Judge(validator, settings.validator.timeout_s)
            scorer = Scorer(validator, settings.validator.timeout_s)
            inspector = Inspector(validator, settings.validator.inspect_timeout_s)
            redactor = Redactor(validator, settings.validator.inspect_timeout_s)
        file = PolicyFile(settings.policy_file, settings.policy_reload_s) if settings.policy_file is not None else None
        store = None
        if settings.store.url:
            store = Store(settings.store)
            stack.push_async_callback(store.close)
        metrics = Metrics(settings.name, settings.telemetry, listen=settings.telemetry.metrics_listen)
        stack.push_async_callback(asyncio.to_thread, metrics.close)
        measures = Measures(metrics, clock)
        worker = settings.server.worker
        breakers = Breakers(
            settings.breakers, store=store, clock=clock, listeners=[measures.breaker], least=worker.count
        )
        await breakers.start()
        stack.push_async_callback(breakers.close)
        budget = RetryBudget(settings.retry_budget, routers=lambda: breakers.routers)
        spend = Spend(settings.spend, store, clock=clock, routers=lambda: breakers.routers)
        await spend.start()
        stack.push_async_callback(spend.close)
        cache = None
        if settings.cache.enabled:
            kept = Store(settings.cache.store or settings.store)
            stack.push_async_callback(kept.close)
            cache = Cache(settings.cache, kept, clock=clock, wall=wall)
            stack.push_async_callback(cache.close)
        loads = Loads(worker)
        quotas = Quotas()
        watches = (
            Watches(load_watch(loads), lambda address: remote(address, f"{address} load")),
            Watches(quota_watch(quotas, clock), lambda address: remote(address, f"{address} quotas")),
        )
        for each in watches:
            stack.push_async_callback(each.close)
        resolution = Resolution(settings.resolve_s, clock, resolve)
        stack.push_async_callback(resolution.close)
        book = file.start() if file is not None else opened(settings).in_force("router.")
        planner = Planner(
            book=await resolution.adopt(book),
            fleet=fleet,
            breakers=breakers,
            loads=loads,
            quotas=quotas,
            clock=clock,
            inspector=inspector,
            spend=spend,
            measures=measures,
            tracing=tracing,
            max_waiting=settings.admission.max_waiting,
            scores=scorer is not None,
        )
        follow = settings.validator.follow_from_tokens if settings.validator is not None else None
        attempts = Attempts(settings.name, fleet, judge, breakers, budget, loads, spend, redactor, follow)
        router = Router(
            planner=planner,
            fleet=fleet,
            strategies=strategies(attempts, Vouching(attempts, scorer)),
            embedder=Embedder(attempts, fleet),
            keep=keep or (lambda attempt, call: None),
            announce=announce,
            clock=clock,
            breakers=breakers,
            budget=budget,
            loads=loads,
            watches=watches,
            gate=Gate(settings.admission, clock),
            idempotency=Idempotency(settings.idempotency, clock),
            spend=spend,
            cache=cache,
            measures=measures,
        )
        measures.watch(cache, ledger, spend)
        resolution.tell = router.adopt
        looking = asyncio.create_task(resolution.watch(), name="resolution")
        stack.callback(looking.cancel)
        if file is not None:
            file.adopt = resolution.adopt
            watching = asyncio.create_task(file.watch(), name="policy file")
            stack.callback(watching.cancel)
        status = Status(settings.name, router, clock, clock(), file, ledger, resolution)
        sessions = Sessions(
            partial(events, router), settings.server, tracing=tracing, clock=clock, whole=partial(answer, router)
        )
        siblings = Siblings(worker, max_receive_bytes=settings.server.max_receive_bytes)
        stack.push_async_callback(siblings.close)
        served = services(router, status, Leases(store), sessions, siblings)
        server = Server(settings.server, served, tracing=tracing, clock=clock, scopes=SCOPES)
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
            stall_s = settings.server.write_stall_s
            http = Listener(settings.http, edge, stall_s=stall_s, reuse_port=not worker.alone)
            await http.start()
            server.ends_with(http)
        await server.health.set_ready(True)
        yield App(server, router, http, metrics.address)
