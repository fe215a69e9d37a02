"""A live stream whose target dies goes on at another with the same weights: nothing lost, nothing repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from services.router.app import build
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.errors import ConstraintUnsupported, StreamInterrupted, TargetDown
from spillway.generation import Folder
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script, Stall
from spillway.testing.server import LOOPBACK
from tests.integration.router.mesh import CAPABILITIES, Mesh, json_spec, text

ANSWER = "one two three four five six seven eight"


@asynccontextmanager
async def replicas(
    *weights: str, policy: PolicySettings | None = None, capabilities: Iterable[str] = CAPABILITIES
) -> AsyncIterator[tuple[Mesh, list[FakeEngine]]]:
    """A router before engines that all answer alike, each with its name for the weights."""
    async with AsyncExitStack() as stack:
        engines = [FakeEngine(model="m", answer=lambda spec: ANSWER) for _ in weights]
        targets = []
        for number, (engine, name) in enumerate(zip(engines, weights, strict=True)):
            server = await stack.enter_async_context(serving_engine(engine))
            targets.append(
                TargetSettings(
                    name=f"t{number}",
                    kind="local",
                    address=server.address,
                    weights=name,
                    capabilities=frozenset(capabilities),
                )
            )
        kept: list[object] = []
        settings = RouterSettings(server=LOOPBACK, targets=tuple(targets), policy=policy or PolicySettings())
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: kept.append(attempt)))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        yield Mesh(engines[0], engines[-1], app.server.address, remote, kept), engines  # type: ignore[arg-type]


async def read(
    mesh: Mesh, spec: v1.GenerationSpec | None = None, accepts_restart: bool = False
) -> tuple[v1.GenerateResponse, list[v1.RouteChanged]]:
    folder, changes = Folder(), []
    async for event in mesh.stream(
        spec or text(), v1.RoutingPolicy(delivery=v1.Delivery(accepts_restart=accepts_restart))
    ):
        folder.add(event)
        if event.HasField("route_changed"):
            changes.append(event.route_changed)
    return folder.whole(), changes


@pytest.mark.parametrize("in_sessions", [True, False], ids=["session", "alone"])
@pytest.mark.parametrize("after", range(1, 8))
@pytest.mark.parametrize("fault", [Cut, Stall], ids=["cut", "stalled"])
async def test_a_stream_goes_on_wherever_it_breaks(
    after: int, fault: Callable[[int], Cut | Stall], in_sessions: bool
) -> None:
    async with replicas("w", "w", policy=PolicySettings(idle_s=0.2)) as (mesh, engines):
        mesh.in_sessions = in_sessions
        engines[0].faults = Script(fault(after))
        answer, changes = await read(mesh)
        assert answer.choices[0].content.text == ANSWER
        assert list(answer.choices[0].content.token_ids) == list(range(8))
        assert [(change.from_target, change.to_target) for change in changes] == [("t0", "t1")]
        assert changes[0].resumed_after_tokens == after
        assert answer.usage.completion_tokens == 8
        assert [attempt.completion_tokens for attempt in answer.usage.attempts] == [after, 8 - after]
        continuation = engines[1].seen[0].request.spec.continuation
        assert list(continuation.token_ids) == list(range(after))
        assert ANSWER.startswith(continuation.text)


async def test_what_is_told_of_a_prompts_tokens_is_told_once_and_kept_across_a_cut() -> None:
    spec = text()
    spec.logprobs.prompt = 0
    async with replicas("w", "w", capabilities={*CAPABILITIES, "prompt_logprobs"}) as (mesh, engines):
        for engine in engines:
            engine.probability = 0.5
        engines[0].faults = Script(Cut(3))
        answer, changes = await read(mesh, spec)
        assert changes[0].resumed_after_tokens == 3
        assert len(answer.started.prompt_logprobs) == answer.usage.prompt_tokens - 1
        rest = engines[1].seen[0].request.spec
        assert rest.HasField("logprobs")
        assert not rest.logprobs.HasField("prompt")


async def test_a_target_that_tells_nothing_of_a_prompt_is_not_asked_to() -> None:
    spec = text()
    spec.logprobs.prompt = 0
    async with replicas("w") as (mesh, engines):
        with pytest.raises(ConstraintUnsupported) as refusal:
            await read(mesh, spec)
        assert "spec.logprobs.prompt" in [violation.field for violation in refusal.value.fields]
        assert engines[0].seen == []


async def test_a_stream_survives_as_many_deaths_as_there_are_replicas() -> None:
    async with replicas("w", "w", "w") as (mesh, engines):
        engines[0].faults = Script(Cut(2))
        engines[1].faults = Script(Cut(5))
        answer, changes = await read(mesh)
        assert answer.choices[0].content.text == ANSWER
        assert [change.resumed_after_tokens for change in changes] == [2, 5]
        assert answer.usage.completion_tokens == 8


async def test_a_replica_with_the_same_weights_is_tried_before_another_model() -> None:
    async with replicas("w", "other", "w") as (mesh, engines):
        engines[0].faults = Script(Cut(3))
        answer, changes = await read(mesh)
        assert changes[0].to_target == "t2"
        assert answer.choices[0].content.text == ANSWER
        assert engines[1].seen == []


async def test_a_replica_that_refuses_is_passed_over() -> None:
    async with replicas("w", "w", "w") as (mesh, engines):
        engines[0].faults = Script(Cut(3))
        engines[1].faults = Script(always=Refuse(TargetDown("gone too")))
        answer, changes = await read(mesh)
        assert changes[0].to_target == "t2"
        assert answer.choices[0].content.text == ANSWER


@pytest.mark.parametrize("weights", [("w", "x"), ("", "")])
async def test_another_model_never_goes_on_with_a_stream(weights: tuple[str, str]) -> None:
    async with replicas(*weights) as (mesh, engines):
        engines[0].faults = Script(Cut(3))
        with pytest.raises(StreamInterrupted):
            await read(mesh)
        engines[0].faults = Script(Cut(3))
        answer, changes = await read(mesh, accepts_restart=True)
        assert changes[0].restarted
        assert answer.choices[0].content.text == ANSWER


async def test_an_engine_that_cannot_restore_a_penalty_says_so_and_the_stream_starts_again_where_it_may() -> None:
    spec = v1.GenerationSpec(text=v1.TextPrompt(text="a"), sampling=v1.Sampling(presence_penalty=0.5))
    async with replicas("w", "w") as (mesh, engines):
        for accepts_restart in (False, True):
            engines[0].faults = Script(Cut(3))
            engines[1].faults = Script(Refuse(ConstraintUnsupported("cannot be restored")))
            if accepts_restart:
                answer, changes = await read(mesh, spec, accepts_restart=True)
                assert changes[0].restarted
                assert answer.choices[0].content.text == ANSWER
            else:
                with pytest.raises(StreamInterrupted):
                    await read(mesh, spec)
        engines[0].faults = Script(Cut(3))
        answer, changes = await read(mesh, spec)
        assert changes[0].resumed_after_tokens == 3
        assert answer.choices[0].content.text == ANSWER


async def test_what_cannot_be_restored_is_not_continued() -> None:
    spec = json_spec()
    async with replicas("w", "w") as (mesh, engines):
        engines[0].faults = Script(Cut(3))
        policy = v1.RoutingPolicy(delivery=v1.Delivery(mode=v1.DELIVERY_MODE_LIVE), validation=v1.VALIDATION_OFF)
        with pytest.raises(StreamInterrupted):
            async for _ in mesh.stream(spec, policy):
                pass
        assert engines[1].seen == []
