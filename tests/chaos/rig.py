"""Callers over gRPC and HTTP, a router, a cloud proxy, and two simulated providers whose answers differ."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
from openai import AsyncOpenAI
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.cloud_proxy.app import CloudProxyApp
from services.cloud_proxy.app import build as build_proxy
from services.cloud_proxy.settings import CloudProxySettings, ProviderSettings
from services.router.app import build
from services.router.http.settings import HttpSettings
from services.router.journal import Attempt
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Clock, Deadline
from spillway.errors import SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import StoreSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.openai_faults import Faults
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc

TOKENS = 60
PRIMARY = " ".join(f"primary{number}" for number in range(TOKENS))
FALLBACK = " ".join(f"fallback{number}" for number in range(TOKENS))
LIMIT_S = 30.0
SHARE_S, STALL_S = 3.0, 0.5
"""What the primary's share of the deadline, and the longest silence within an answer, come to."""
HTTP_CODES = {"content_filter": "CONTENT_FILTERED", "stream_interrupted": "STREAM_INTERRUPTED"}


@dataclass(frozen=True, slots=True)
class Told:
    """What the caller was told. `error` is a reason, empty where the answer ended as whole answers do."""

    text: str
    error: str = ""
    restarted: bool = False

    @property
    def summary(self) -> str:
        """In the words of the table."""
        whole = {PRIMARY: "the primary's answer", FALLBACK: "the fallback's answer"}
        return self.error or whole.get(self.text, f"NEITHER ANSWER: {self.text[:40]}... {len(self.text.split())} words")


@dataclass(slots=True)
class Rig:
    """The mesh, what was asked of the providers, and what the ledger would hold."""

    primary: OpenAISimulator
    fallback: OpenAISimulator
    remote: Remote
    http: AsyncOpenAI
    proxy: CloudProxyApp
    kept: list[Attempt]
    exporter: InMemorySpanExporter
    tracing: Tracing

    async def ask(self, door: str, delivery: str, *, probe_tokens: int = 8, restart: bool = False) -> Told:
        """Ask for a streamed answer through `door`, `grpc` or `http`."""
        if door == "http":
            return await self._over_http(delivery, probe_tokens)
        wanted = v1.Delivery(
            mode=v1.DeliveryMode.Value(f"DELIVERY_MODE_{delivery.upper()}"),
            probe_tokens=probe_tokens,
            accepts_restart=restart,
        )
        return await self._over_grpc(v1.RoutingPolicy(delivery=wanted))

    async def _over_grpc(self, policy: v1.RoutingPolicy) -> Told:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="hello there")])
        spec = v1.GenerationSpec(chat=v1.Chat(messages=[message]), coalescing=v1.Coalescing(window_ms=0))
        request = v1.StreamGenerateRequest(spec=spec, policy=policy)
        text, finished, restarted, sequence = "", False, False, 0
        try:
            call = Call("test", Deadline.after(LIMIT_S))
            async with self.remote.stream(stub.StreamGenerate, request, call, span_name="test") as rpc:
                async for response in rpc:
                    event = response.event
                    assert event.sequence == sequence
                    sequence += 1
                    if event.route_changed.restarted:
                        text, restarted = "", True
                    text += event.delta.text
                    finished |= event.HasField("finished")
        except SpillwayError as error:
            return Told(text, error.reason)
        return Told(text if finished else "", restarted=restarted)

    async def _over_http(self, delivery: str, probe_tokens: int) -> Told:
        headers = {
            "x-spillway-delivery": delivery,
            "x-spillway-probe-tokens": str(probe_tokens),
            "x-spillway-deadline-ms": str(round(LIMIT_S * 1000)),
        }
        text, finish = "", None
        try:
            chunks = await self.http.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "hello there"}], stream=True, extra_headers=headers
            )
            async with chunks:
                async for chunk in chunks:
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        finish = choice.finish_reason or finish
        except openai.APIError as error:
            return Told(text, HTTP_CODES.get(str(error.code), str(error.code)))
        return Told(text if finish == "stop" else "")

    def outcomes(self) -> list[str]:
        """target:reason of every accounted attempt, in order; no reason where it answered."""
        return [f"{attempt.target.name}:{attempt.record.reason}" for attempt in self.kept]

    @property
    def running(self) -> int:
        return self.primary.running + self.fallback.running


def provider(name: str, url: str, context_window: int, prefill: str | None = None) -> ProviderSettings:
    return ProviderSettings.model_validate(
        {
            "name": name,
            "region": "us",
            "base_url": url,
            "simulated": True,
            "models": [{"name": "m", "context_window": context_window}],
            "stall_s": STALL_S,
            "prefill": prefill,
        }
    )


def target(name: str, address: str, context_window: int, prefill: str | None = None) -> TargetSettings:
    return TargetSettings(
        name=name,
        kind="cloud",
        address=address,
        model=f"{name}/m",
        region="us",
        context_window=context_window,
        capabilities=frozenset({"text_input", "prefill"} if prefill else {"text_input"}),
        first_token_floor_s=0.1,
    )


def in_other_words(body: Mapping[str, Any]) -> str:
    """What the fallback says, whatever it is asked."""
    return FALLBACK


@dataclass(frozen=True, slots=True)
class Fallback:
    """How the fallback answers, and whether it takes a prefill: as it is declared, and in truth."""

    answer: Callable[[Mapping[str, Any]], str] = in_other_words
    prefill: str | None = None
    takes_prefill: bool = False


@asynccontextmanager
async def running(
    faults: Faults,
    valkey: str,
    *,
    share_s: float = SHARE_S,
    clock: Clock = time.monotonic,
    fallback_is: Fallback = Fallback(),
    **policy: Any,
) -> AsyncIterator[Rig]:
    """A mesh whose primary has `faults`; `clock` is the router's, `policy` what else its policy says."""
    primary = OpenAISimulator(answer=lambda body: PRIMARY, interval_s=0.002, faults=faults)
    fallback = OpenAISimulator(answer=fallback_is.answer, takes_prefill=fallback_is.takes_prefill)
    prefill = fallback_is.prefill
    exporter = InMemorySpanExporter()
    async with AsyncExitStack() as stack:
        tracing = Tracing("test", exporter=exporter)
        stack.callback(tracing.close)
        urls = [await stack.enter_async_context(serving_openai(each)) for each in (primary, fallback)]
        proxy = await stack.enter_async_context(
            build_proxy(
                CloudProxySettings(
                    server=LOOPBACK,
                    store=StoreSettings(url=valkey, timeout_s=5.0),
                    providers=(provider("primary", urls[0], 8192), provider("fallback", urls[1], 128_000, prefill)),
                    window_s=0,
                ),
                environ={},
                tracing=tracing,
            )
        )
        address, kept = proxy.server.address, list[Attempt]()
        app = await stack.enter_async_context(
            build(
                RouterSettings(
                    server=LOOPBACK,
                    targets=(target("primary", address, 8192), target("fallback", address, 128_000, prefill)),
                    policy=PolicySettings(first_token_share=share_s / LIMIT_S, **policy),
                    http=HttpSettings(listen="127.0.0.1:0"),
                ),
                keep=lambda attempt, call: kept.append(attempt),
                tracing=tracing,
                clock=clock,
            )
        )
        assert app.http is not None
        remote = Remote(app.server.address, tracing=Tracing("caller"))
        stack.push_async_callback(remote.close)
        base_url = f"http://{app.http.address}/v1"
        http = await stack.enter_async_context(AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0))
        yield Rig(primary, fallback, remote, http, proxy, kept, exporter, tracing)
