"""A live stream whose target dies goes on at another model, where policy allows it: nothing lost, nothing repeated."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from services.router.app import build
from services.router.breaker_settings import BreakerSettings, BreakersSettings
from services.router.http.settings import HttpSettings
from services.router.journal import Attempt
from services.router.leg import INSTRUCTION
from services.router.overlap import Overlap, anchor
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.errors import RequestInvalid, StreamInterrupted
from spillway.generation import Folder
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script
from spillway.testing.server import LOOPBACK
from tests.integration.router.mesh import CAPABILITIES, Mesh, chat, json_spec, text

ANSWER = "Your parcel left Berlin on Monday, passed Hamburg on Tuesday, and will be with you on Wednesday at noon."
WORDS = len(ANSWER.split())
OTHER = "I have looked it up for you: it comes tomorrow, in the course of the morning."
PATIENT = BreakersSettings(transport=BreakerSettings(in_a_row=None, least_samples=1_000_000))
ANY_MODEL = PolicySettings(continue_on="any_model", max_retries_per_target=0)

Said = Callable[[str, str], str]
"""What a target answers that has a whole answer in mind and was asked to go on with the beginning of it."""


def exact(whole: str, sent: str) -> str:
    return whole.removeprefix(sent)


def repeats(whole: str, sent: str) -> str:
    return anchor(sent) + exact(whole, sent)


def repeats_more(whole: str, sent: str) -> str:
    return sent[-max(len(anchor(sent)), 2 * len(sent) // 3) :].lstrip() + exact(whole, sent)


def starts_over(whole: str, sent: str) -> str:
    return whole


def sent_in(spec: v1.GenerationSpec) -> str:
    """The text that `spec` asks to go on with, empty if it asks from the beginning."""
    if spec.HasField("continuation"):
        return spec.continuation.text
    if len(spec.chat.messages) > 1 and spec.chat.messages[-1].parts[0].text.startswith(INSTRUCTION):
        return spec.chat.messages[-2].parts[0].text
    return ""


def going_on(said: Said, whole: str = ANSWER) -> Callable[[v1.GenerationSpec], str]:
    """A model that goes on as `said`; asked to repeat the last words, it does so at least."""

    def answer(spec: v1.GenerationSpec) -> str:
        sent = sent_in(spec)
        if not sent:
            return OTHER
        return (repeats if said is exact and not spec.HasField("continuation") else said)(whole, sent)

    return answer


def in_other_words(spec: v1.GenerationSpec) -> str:
    return OTHER


@asynccontextmanager
async def models(
    *others: Callable[[v1.GenerationSpec], str],
    policy: PolicySettings = ANY_MODEL,
    prefill: bool = False,
    http: bool = False,
) -> AsyncIterator[tuple[Mesh, list[FakeEngine]]]:
    """A router before one model that gives ANSWER and others that say what they like."""
    engines = [FakeEngine(model="m0", answer=lambda spec: ANSWER)]
    engines += [
        FakeEngine(model=f"m{at}", answer=other, takes_prefill=False) for at, other in enumerate(others, start=1)
    ]
    kept: list[Attempt] = []
    async with AsyncExitStack() as stack:
        targets = [
            TargetSettings(
                name=f"t{at}",
                kind="local",
                address=(await stack.enter_async_context(serving_engine(engine))).address,
                model=engine.model,
                capabilities=frozenset({*CAPABILITIES, "prefill"} if prefill else CAPABILITIES),
            )
            for at, engine in enumerate(engines)
        ]
        settings = RouterSettings(
            server=LOOPBACK,
            targets=tuple(targets),
            policy=policy,
            breakers=PATIENT,
            http=HttpSettings(listen="127.0.0.1:0") if http else HttpSettings(),
        )
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: kept.append(attempt)))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        mesh = Mesh(engines[0], engines[-1], app.server.address, remote, kept)
        mesh.http = app.http.address if app.http is not None else ""
        yield mesh, engines


async def read(
    mesh: Mesh, spec: v1.GenerationSpec | None = None, *, restarts: bool = False
) -> tuple[v1.GenerateResponse, list[v1.RouteChanged]]:
    folder, changes = Folder(), []
    policy = v1.RoutingPolicy(
        delivery=v1.Delivery(mode=v1.DELIVERY_MODE_LIVE, accepts_restart=restarts), validation=v1.VALIDATION_OFF
    )
    async for event in mesh.stream(spec or chat(), policy):
        folder.add(event)
        if event.HasField("route_changed"):
            changes.append(event.route_changed)
    return folder.whole(), changes


@pytest.mark.parametrize("said", [repeats, repeats_more, starts_over])
async def test_a_stream_goes_on_wherever_it_breaks_at_a_model_that_is_asked_to(said: Said) -> None:
    async with models(going_on(said)) as (mesh, engines):
        for after in range(1, WORDS):
            engines[0].faults = Script(Cut(after))
            answer, changes = await read(mesh)
            assert answer.choices[0].content.text == ANSWER
            assert [(change.from_target, change.to_target) for change in changes] == [("t0", "t1")]
            assert changes[0].reason == "TARGET_DOWN; another model goes on: m1"
            assert changes[0].resumed_after_tokens == after
            assert answer.started.model == "m1"
            assert answer.choices[0].finish.reason == v1.FINISH_REASON_STOP


@pytest.mark.parametrize("said", [exact, repeats, starts_over])
async def test_a_stream_goes_on_wherever_it_breaks_at_a_model_that_takes_a_prefill(said: Said) -> None:
    async with models(going_on(said), prefill=True) as (mesh, engines):
        for after in range(1, WORDS):
            engines[0].faults = Script(Cut(after))
            answer, changes = await read(mesh)
            assert answer.choices[0].content.text == ANSWER
            assert changes[0].resumed_after_tokens == after
            asked = engines[1].seen[-1].request.spec
            assert asked.HasField("continuation") == Overlap(sent_in(asked), exact=True).exact


@dataclass
class Scripted:
    """What is answered next, and how the other model goes on with it."""

    whole: str = ""
    said: Said = exact

    def first(self, spec: v1.GenerationSpec) -> str:
        return self.whole

    def second(self, spec: v1.GenerationSpec) -> str:
        return going_on(self.said, self.whole)(spec)


async def test_answers_of_any_words_cut_anywhere_are_whole() -> None:
    draw, now = random.Random(8), Scripted()
    async with models(now.second, prefill=True) as prefilled, models(now.second) as asked:
        for _ in range(400):
            count = draw.randrange(2, 40)
            space = draw.choice((" ", " ", "\n", "\n\n"))
            now.said = draw.choice((exact, repeats, repeats_more, starts_over))
            now.whole = space.join(f"{draw.choice(('the', 'a', 'no', 'ß 你'))}{number}" for number in range(count))
            mesh, engines = draw.choice((prefilled, asked))
            engines[0].answer = now.first
            engines[0].faults = Script(Cut(draw.randrange(1, count)))
            answer, changes = await read(mesh)
            assert answer.choices[0].content.text == now.whole
            assert [change.WhichOneof("continuation") for change in changes] == ["resumed_after_tokens"]


async def test_the_account_is_whole_and_what_was_repeated_is_not_the_callers() -> None:
    async with models(going_on(starts_over)) as (mesh, engines):
        engines[0].faults = Script(Cut(6))
        answer, _ = await read(mesh)
        assert answer.usage.completion_tokens == WORDS
        assert [attempt.completion_tokens for attempt in answer.usage.attempts] == [6, WORDS]
        assert mesh.outcomes() == ["t0:failed", "t1:answered"]


async def test_a_stream_goes_on_over_as_many_models_as_there_are() -> None:
    async with models(going_on(exact), going_on(repeats), prefill=True) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        engines[1].faults = Script(Cut(3))
        answer, changes = await read(mesh)
        assert answer.choices[0].content.text == ANSWER
        assert [change.resumed_after_tokens for change in changes] == [8, 11]
        assert answer.usage.completion_tokens == WORDS


async def test_a_model_that_dies_before_it_is_certain_that_it_goes_on_gave_nothing() -> None:
    async with models(going_on(starts_over), going_on(repeats)) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        engines[1].faults = Script(Cut(7))
        answer, changes = await read(mesh)
        assert answer.choices[0].content.text == ANSWER
        assert [(change.from_target, change.to_target) for change in changes] == [("t0", "t2")]


async def test_an_answer_in_other_words_ends_the_stream_and_nothing_of_it_is_told() -> None:
    async with models(in_other_words) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        told = ""
        with pytest.raises(StreamInterrupted) as broken:
            async for event in mesh.stream(chat()):
                told += event.delta.text
                assert not event.HasField("route_changed")
        assert told == " ".join(ANSWER.split()[:8])
        assert broken.value.metadata["last_sequence"] == "8"
        assert broken.value.metadata["tokens"] == "8"
        assert "t1 (did not go on)" in broken.value.message
        assert mesh.outcomes() == ["t0:failed", "t1:cancelled"]


async def test_after_an_answer_in_other_words_the_next_model_is_asked() -> None:
    async with models(in_other_words, going_on(repeats)) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        answer, changes = await read(mesh)
        assert answer.choices[0].content.text == ANSWER
        assert [change.to_target for change in changes] == ["t2"]
        assert answer.started.route_reason.endswith("after t0 TARGET_DOWN; t1 did not go on)")


async def test_a_model_that_does_not_go_on_is_asked_anew_where_the_caller_takes_a_restart() -> None:
    async with models(in_other_words) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        answer, changes = await read(mesh, restarts=True)
        assert answer.choices[0].content.text == OTHER
        assert [change.restarted for change in changes] == [True]
        assert [bool(sent_in(seen.request.spec)) for seen in engines[1].seen] == [True, False]


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_model_that_rejects_a_prefill_after_all_is_not_the_callers_mistake(restarts: bool) -> None:
    async with models(in_other_words, prefill=True) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        engines[1].faults = Script(Refuse(RequestInvalid("the conversation must end with a user message")))
        if restarts:
            answer, _ = await read(mesh, restarts=True)
            assert answer.choices[0].content.text == OTHER
        else:
            with pytest.raises(StreamInterrupted, match="TARGET_DOWN"):
                await read(mesh)


@pytest.mark.parametrize("policy", [PolicySettings(max_retries_per_target=0), ANY_MODEL], ids=["default", "any_model"])
@pytest.mark.parametrize(
    "spec",
    [
        json_spec(),
        v1.GenerationSpec(chat=chat().chat, sampling=v1.Sampling(presence_penalty=0.5)),
        v1.GenerationSpec(chat=chat().chat, logprobs=v1.Logprobs(top=0)),
        v1.GenerationSpec(chat=chat().chat, stop=v1.Stop(strings=["noon", "day and night"])),
        v1.GenerationSpec(chat=chat().chat, sampling=v1.Sampling(max_tokens=6)),
        text(),
    ],
    ids=["json", "penalty", "logprobs", "a stop string has begun", "the limit was reached", "no chat"],
)
async def test_what_cannot_be_restored_on_another_model_is_not_continued_there(
    spec: v1.GenerationSpec, policy: PolicySettings
) -> None:
    async with models(going_on(repeats), policy=policy) as (mesh, engines):
        engines[0].answer = lambda spec: "Your parcel will come by day or later"
        engines[0].faults = Script(Cut(6))
        with pytest.raises(StreamInterrupted):
            await read(mesh, spec)
        assert engines[1].seen == []


async def test_a_text_is_continued_as_it_is() -> None:
    async with models(going_on(exact), prefill=True) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        answer, _ = await read(mesh, text())
        assert answer.choices[0].content.text == ANSWER


async def test_limits_are_those_of_what_is_still_to_come() -> None:
    async with models(going_on(exact), prefill=True) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        limits = v1.Sampling(max_tokens=15, min_tokens=10)
        answer, _ = await read(mesh, v1.GenerationSpec(chat=chat().chat, sampling=limits))
        asked = engines[1].seen[0].request.spec.sampling
        assert (asked.max_tokens, asked.min_tokens) == (7, 2)
        assert answer.choices[0].content.text == " ".join(ANSWER.split()[:15])
        assert answer.choices[0].finish.reason == v1.FINISH_REASON_LENGTH


async def test_the_instruction_names_the_last_words_and_shows_all_before() -> None:
    async with models(going_on(repeats)) as (mesh, engines):
        engines[0].faults = Script(Cut(8))
        await read(mesh)
        asked, draft, instruction = engines[1].seen[0].request.spec.chat.messages
        assert asked == chat().chat.messages[0]
        assert draft.parts[0].text == " ".join(ANSWER.split()[:8])
        assert instruction.parts[0].text == INSTRUCTION + "on Monday, passed Hamburg"


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_stream_over_http_continues_or_ends_with_an_error(goes_on: bool) -> None:
    async with models(going_on(repeats) if goes_on else in_other_words, http=True) as (mesh, engines):
        engines[0].faults = Script(Cut(12))
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello there"}], "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{mesh.http}/v1/chat/completions", json=body) as response,
        ):
            assert response.status == 200
            lines = (await response.text()).split("\n\n")
    *events, last = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events]
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
    if goes_on:
        assert (said, last) == (ANSWER, "[DONE]")
        assert chunks[0]["model"] == "m0"
        assert chunks[-1]["model"] == "m1"
    else:
        assert said == " ".join(ANSWER.split()[:12])
        assert json.loads(last)["error"]["code"] == "stream_interrupted"
