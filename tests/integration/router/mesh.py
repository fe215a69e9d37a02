"""A router in process, before fake targets on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc

from services.router.admission_settings import AdmissionSettings
from services.router.app import build
from services.router.breaker_settings import BreakersSettings, RetryBudgetSettings
from services.router.cache import Cache
from services.router.cache_settings import CacheSettings
from services.router.http.settings import HttpSettings
from services.router.journal import Attempt
from services.router.policy_settings import PolicySettings, PriceSettings, TargetSettings
from services.router.router import Router
from services.router.settings import RouterSettings, RouterTelemetrySettings, ValidatorSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import TargetDown
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.rpc.server import Service
from spillway.session.client import Session
from spillway.settings import ServerSettings, StoreSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.server import LOOPBACK, serving
from spillway.v1 import inference_pb2_grpc, router_pb2_grpc, validator_pb2_grpc

CAPABILITIES: Any = ["text_input", "json_schema", "json_object", "choices", "logprobs"]


@dataclass
class Mesh:
    """A router and a client of it; `kept` is what its ledger would hold."""

    local: FakeEngine
    cloud: FakeEngine
    address: str
    remote: Remote
    kept: list[Attempt]
    judged: list[v1.ValidateRequest] = field(default_factory=list)
    inspected: list[v1.InspectInputRequest] = field(default_factory=list)
    cache: Cache | None = None
    router: Router | None = None
    http: str = ""
    """host:port of the OpenAI-compatible edge."""
    metrics: str = ""
    """host:port that Prometheus scrapes."""
    drain: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0))
    """Ends the router as a signal does."""
    in_sessions: bool = True
    """How streams are asked for: in a session, or each by a call of its own."""

    def __post_init__(self) -> None:
        self.session = Session(self.remote)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        self.routes = router_pb2_grpc.RouterServiceStub(self.remote.channel)

    async def generate(
        self, spec: v1.GenerationSpec, policy: v1.RoutingPolicy | None = None, deadline_s: float = 10.0
    ) -> v1.GenerateResponse:
        call = Call("test", Deadline.after(deadline_s))
        return await self.remote.unary(
            self.stub.Generate, v1.GenerateRequest(spec=spec, policy=policy), call, span_name="test"
        )

    async def stream(
        self, spec: v1.GenerationSpec, policy: v1.RoutingPolicy | None = None, deadline_s: float = 10.0
    ) -> AsyncGenerator[v1.GenerationEvent]:
        call = Call("test", Deadline.after(deadline_s))
        request = v1.StreamGenerateRequest(spec=spec, policy=policy)
        alone = partial(self.remote.stream, self.stub.StreamGenerate)
        ask: Any = self.session.stream if self.in_sessions else alone
        async with ask(request, call, span_name="test") as rpc:
            async for response in rpc:
                yield response.event

    def outcomes(self) -> list[str]:
        """target:outcome of every accounted attempt, in order."""
        return [
            f"{attempt.target.name}:{v1.AttemptOutcome.Name(attempt.record.outcome).removeprefix('ATTEMPT_OUTCOME_').lower()}"
            for attempt in self.kept
        ]


Verdicts = Callable[[v1.Answer], v1.Verdict]
Scores = Callable[[v1.ScoreConfidenceRequest], float]
Finds = Callable[[str], Awaitable[list[str]]]
"""The kinds of what stands in a text."""


async def emails(text: str) -> list[str]:
    """Finds words with an @ in them."""
    return ["email"] if "@" in text else []


class FakeValidator(validator_pb2_grpc.ValidatorServiceServicer):
    """Judges and inspects by functions."""

    def __init__(self, verdict: Verdicts, finds: Finds, scores: Scores | None = None) -> None:
        self._scores = scores
        self._verdict = verdict
        self._finds = finds
        self.requests: list[v1.ValidateRequest] = []
        self.inspected: list[v1.InspectInputRequest] = []

    async def InspectInput(self, request: v1.InspectInputRequest, context: Any) -> v1.InspectInputResponse:
        self.inspected.append(request)
        spans = [
            v1.SensitiveSpan(text=place, start=0, end=len(text), kind=kind, rule=kind)
            for place, text in enumerate(request.texts)
            for kind in await self._finds(text)
        ]
        return v1.InspectInputResponse(spans=spans)

    def ValidateStream(
        self, requests: AsyncIterator[v1.ValidateStreamRequest], context: Any
    ) -> AsyncIterator[v1.ValidateStreamResponse]:
        """It judges whole answers alone."""
        raise TargetDown("this validator follows no answers")

    async def ScoreConfidence(self, request: v1.ScoreConfidenceRequest, context: Any) -> v1.ScoreConfidenceResponse:
        if self._scores is None:  # it is of a version before there were any
            await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        assert self._scores is not None
        return v1.ScoreConfidenceResponse(score=self._scores(request))

    async def Redact(self, request: v1.RedactRequest, context: Any) -> v1.RedactResponse:
        """It has no placeholders."""
        raise TargetDown("this validator redacts nothing")

    async def Restore(self, request: v1.RestoreRequest, context: Any) -> v1.RestoreResponse:
        raise TargetDown("this validator restores nothing")

    async def ListPolicies(self, request: v1.ListPoliciesRequest, context: Any) -> v1.ListPoliciesResponse:
        return v1.ListPoliciesResponse()

    async def Validate(self, request: v1.ValidateRequest, context: Any) -> v1.ValidateResponse:
        self.requests.append(request)
        return v1.ValidateResponse(verdicts=[self._verdict(answer) for answer in request.answers])


def json_only(answer: v1.Answer) -> v1.Verdict:
    """Accepts an answer that begins with a brace."""
    if answer.text.startswith("{"):
        return v1.Verdict(decision=v1.VERDICT_DECISION_ACCEPT, accepted_json=answer.text)
    finding = v1.Finding(kind=v1.FINDING_KIND_JSON_MISSING, message="the answer has no JSON")
    return v1.Verdict(decision=v1.VERDICT_DECISION_RETRY, findings=[finding], instruction=f"Refused: {finding.message}")


@asynccontextmanager
async def serving_validator(validator: FakeValidator) -> AsyncIterator[str]:
    """Serve `validator` for the block; its address."""
    add = validator_pb2_grpc.add_ValidatorServiceServicer_to_server
    async with serving(Service("spillway.v1.ValidatorService", validator, add)) as server:
        yield server.address


@asynccontextmanager
async def running_mesh(
    policy: PolicySettings | None = None,
    verdict: Verdicts | None = json_only,
    validator_address: str = "",
    *,
    include: tuple[str, ...] = (),
    local: FakeEngine | None = None,
    cache: CacheSettings | None = None,
    server: ServerSettings = LOOPBACK,
    http: HttpSettings | None = None,
    wall: Callable[[], float] = time.time,
    tracing: Tracing | None = None,
    telemetry: RouterTelemetrySettings | None = None,
    breakers: BreakersSettings | None = None,
    cloud_address: str = "",
    retention_days: int | None = None,
    capabilities: Any = CAPABILITIES,
    retry_budget: RetryBudgetSettings | None = None,
    finds: Finds = emails,
    inspect_timeout_s: float = 10.0,
    admission: AdmissionSettings | None = None,
    document: Mapping[str, Any] | None = None,
    store: StoreSettings | None = None,
    beside: Mapping[str, FakeEngine] | None = None,
    validator_timeout_s: float = 0.5,
    concurrency: int | None = None,
    scores: Scores | None = None,
) -> AsyncIterator[Mesh]:
    """A router before `local` (small, on the site) and `cloud` (large, region us).

    `cloud_address` puts another server in the place of the fake cloud; `capabilities` are what both are declared with,
    `retention_days` what it is; `document` is more of the policy, `beside` more targets on the site, by name;
    `concurrency` the local target's.
    """
    local = local or FakeEngine(model="small")
    cloud = FakeEngine(model="openai/big", answer=lambda spec: "from the cloud")
    async with AsyncExitStack() as stack:
        on_site = await stack.enter_async_context(serving_engine(local))
        away = await stack.enter_async_context(serving_engine(cloud))
        judge = None
        if verdict is not None and not validator_address:
            judge = FakeValidator(verdict, finds, scores)
            validator_address = await stack.enter_async_context(serving_validator(judge))
        asked = None
        if validator_address:
            asked = ValidatorSettings(
                address=validator_address, timeout_s=validator_timeout_s, inspect_timeout_s=inspect_timeout_s
            )
        more = []
        for name, engine in (beside or {}).items():
            address = (await stack.enter_async_context(serving_engine(engine))).address
            more.append(
                TargetSettings(name=name, kind="local", tier="large", address=address, capabilities=capabilities)
            )
        settings = RouterSettings(
            server=server,
            targets=(
                TargetSettings(
                    name="local",
                    kind="local",
                    address=on_site.address,
                    context_window=2048,
                    capabilities=capabilities,
                    concurrency=concurrency,
                ),
                *more,
                TargetSettings(
                    name="cloud",
                    kind="cloud",
                    address=cloud_address or away.address,
                    model="openai/big",
                    region="us",
                    retention_days=retention_days,
                    context_window=128_000,
                    capabilities=capabilities,
                    price=PriceSettings(input_usd_per_mtok=1, output_usd_per_mtok=2),
                ),
            ),
            **(document or {}),
            policy=policy or PolicySettings(),
            include=include,
            revision="test",  # addresses differ from mesh to mesh
            http=http or HttpSettings(),
            validator=asked,
            cache=cache or CacheSettings(),
            store=store or StoreSettings(),
            retry_budget=retry_budget or RetryBudgetSettings(),
            telemetry=telemetry or RouterTelemetrySettings(),
            breakers=breakers or BreakersSettings(),
            admission=admission or AdmissionSettings(),
        )
        kept: list[Attempt] = []
        app = await stack.enter_async_context(
            build(settings, keep=lambda attempt, call: kept.append(attempt), tracing=tracing, wall=wall)
        )
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        mesh = Mesh(local, cloud, app.server.address, remote, kept, cache=app.router.cache, router=app.router)
        stack.push_async_callback(mesh.session.close)
        mesh.drain = app.server.drain
        mesh.metrics = app.metrics
        mesh.http = app.http.address if app.http is not None else ""
        if judge is not None:
            mesh.judged, mesh.inspected = judge.requests, judge.inspected
        yield mesh


def text(prompt: str = "hello there") -> v1.GenerationSpec:
    """A plain spec."""
    return v1.GenerationSpec(text=v1.TextPrompt(text=prompt))


def chat(prompt: str = "hello there") -> v1.GenerationSpec:
    """A plain conversation."""
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=prompt)])
    return v1.GenerationSpec(chat=v1.Chat(messages=[message]))


def json_spec(enforcement: v1.Enforcement.ValueType = v1.ENFORCEMENT_UNSPECIFIED) -> v1.GenerationSpec:
    """A spec whose answer is to be JSON."""
    return v1.GenerationSpec(
        chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="extract")])]),
        constraint=v1.OutputConstraint(json_schema='{"type": "object"}', enforcement=enforcement),
    )
