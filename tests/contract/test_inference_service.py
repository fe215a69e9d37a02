"""What every server of `InferenceService` does, whoever it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spillway import errors, v1
from spillway.errors import SpillwayError
from spillway.generation import Folder
from tests.contract.target import Target

pytestmark = pytest.mark.asyncio(loop_scope="session")


def kinds(events: list[v1.GenerationEvent]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events if not event.HasField("heartbeat")]


def text(events: list[v1.GenerationEvent]) -> str:
    return "".join(event.delta.text for event in events)


async def refusal(target: Target, spec: v1.GenerationSpec) -> SpillwayError:
    """The error both rpcs answer `spec` with; it must be the same."""
    with pytest.raises(SpillwayError) as unary:
        await target.generate(spec)
    with pytest.raises(SpillwayError) as stream:
        await target.events(spec)
    assert repr(unary.value) == repr(stream.value)
    assert unary.value.fields == stream.value.fields
    return unary.value


# A stream.


async def test_events_are_numbered_from_zero_without_a_gap(target: Target) -> None:
    events = await target.events(target.spec())

    assert [event.sequence for event in events] == list(range(len(events)))


async def test_a_stream_is_started_deltas_finished_usage(target: Target) -> None:
    told = kinds(await target.events(target.spec()))

    assert told[0] == "started"
    assert told[-2:] == ["finished", "usage"]
    assert set(told[1:-2]) == {"delta"}


async def test_started_never_comes_before_there_is_something_to_say(target: Target, until: Any) -> None:
    if target.be_silent is None:
        pytest.skip("this target cannot be made to wait before its first token")
    target.be_silent()
    with pytest.raises(errors.DeadlineExceeded):
        async with target.stream(target.spec(), target.call(0.5)) as responses:
            async for response in responses:
                pytest.fail(f"came too early: {response}")
    await until(lambda: target.running() == 0)


async def test_started_says_who_answers(target: Target) -> None:
    started = (await target.events(target.spec()))[0].started

    assert started.model
    assert started.target


async def test_generate_is_the_folded_stream(target: Target) -> None:
    folder = Folder()
    for event in await target.events(target.spec()):
        folder.add(event)
    streamed = folder.whole()

    whole = await target.generate(target.spec())

    assert [choice.content.text for choice in whole.choices] == [choice.content.text for choice in streamed.choices]
    assert [choice.finish for choice in whole.choices] == [choice.finish for choice in streamed.choices]
    assert whole.usage.prompt_tokens == streamed.usage.prompt_tokens
    assert whole.usage.completion_tokens == streamed.usage.completion_tokens
    assert (whole.started.model, whole.started.target) == (streamed.started.model, streamed.started.target)


async def test_an_answer_that_ended_by_itself_says_stop(target: Target) -> None:
    (choice,) = (await target.generate(target.spec(sampling=v1.Sampling(temperature=0, max_tokens=400)))).choices

    assert choice.content.text
    assert choice.finish.reason == v1.FINISH_REASON_STOP


async def test_max_tokens_is_kept_and_told(target: Target) -> None:
    fewest = target.fewest_tokens
    spec = target.long()
    spec.sampling.max_tokens = fewest

    events = await target.events(spec)

    (finish,) = events[-2].finished.choices
    assert finish.reason == v1.FINISH_REASON_LENGTH
    if target.tells_usage:
        assert events[-1].usage.completion_tokens == fewest


async def test_usage_is_what_the_deltas_said_and_the_prompt_cost(target: Target) -> None:
    # What a runtime does not tell of its streams is unknown, and not told as 0.
    if not target.tells_usage:
        pytest.skip("this runtime tells no usage of a stream")
    events = await target.events(target.spec())
    usage = events[-1].usage
    deltas = [event.delta for event in events if event.HasField("delta")]

    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    if all(delta.HasField("tokens") for delta in deltas):
        assert sum(delta.tokens for delta in deltas) == usage.completion_tokens
    if any(delta.token_ids for delta in deltas):
        assert sum(len(delta.token_ids) for delta in deltas) == usage.completion_tokens
    if events[0].started.HasField("prompt_tokens"):
        assert events[0].started.prompt_tokens == usage.prompt_tokens


async def test_an_answer_that_another_model_began_is_continued_after_its_text(target: Target) -> None:
    if not target.continues:
        pytest.skip("this target begins every answer anew")
    spec = target.spec(stop=target.endless)
    begun = (await target.generate(spec)).choices[0].content.text[:12].rstrip()
    spec.continuation.text = begun

    (choice,) = (await target.generate(spec)).choices

    assert choice.content.text
    assert not choice.content.text.startswith(begun)


async def test_a_merging_window_loses_nothing(target: Target) -> None:
    slow = target.spec(coalescing=v1.Coalescing(window_ms=50))
    fast = target.spec(coalescing=v1.Coalescing(window_ms=0))

    merged, plain = await target.events(slow), await target.events(fast)

    assert text(merged) == text(plain)
    assert merged[-1].usage.completion_tokens == plain[-1].usage.completion_tokens


async def test_streams_side_by_side_do_not_mix(target: Target) -> None:
    alone = text(await target.events(target.spec()))

    together = await asyncio.gather(*(target.events(target.spec()) for _ in range(8)))

    assert [text(events) for events in together] == [alone] * 8


# Who asked, and for what.


async def test_the_request_id_is_echoed_and_made_where_there_is_none(target: Target) -> None:
    asked = await target.generate(target.spec(request_id="asked-for"))
    carried = await target.generate(target.spec(), target.call(request_id="in-metadata"))
    made = await target.generate(target.spec(), target.call(request_id=""))

    assert asked.started.request_id == "asked-for"
    assert carried.started.request_id == "in-metadata"
    assert made.started.request_id


async def test_what_is_listed_answers(target: Target) -> None:
    models = await target.models()

    assert models
    for model in models:
        assert model.target
        assert model.kind != v1.TARGET_KIND_UNSPECIFIED
        assert (await target.generate(target.spec(model=model.name))).choices[0].content.text


async def test_tokens_are_counted(target: Target) -> None:
    short = await target.count(target.spec())
    longer = await target.count(target.spec("Where is my parcel? " * 20))

    assert 0 < short.tokens < longer.tokens
    if short.exact:
        assert short.tokens == (await target.generate(target.spec())).usage.prompt_tokens


# What is wrong.


async def test_an_unknown_model_is_not_found(target: Target) -> None:
    error = await refusal(target, target.spec(model=target.unknown_model))

    assert type(error) is errors.ModelUnknown
    assert error.resource == target.unknown_model
    with pytest.raises(errors.ModelUnknown):
        await target.count(target.spec(model=target.unknown_model))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"chat": v1.Chat()}, "spec.chat.messages"),
        (
            {"chat": v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="")])])},
            "spec.chat.messages[0].parts",
        ),
        ({"chat": None}, "spec.input"),
        ({"sampling": v1.Sampling(max_tokens=-5)}, "spec.sampling.max_tokens"),
        ({"sampling": v1.Sampling(temperature=9)}, "spec.sampling.temperature"),
        ({"stop": v1.Stop(strings=[""])}, "spec.stop.strings"),
    ],
)
async def test_a_wrong_request_is_refused_with_the_name_of_the_field(
    target: Target, wrong: dict[str, Any], field: str
) -> None:
    error = await refusal(target, target.spec(**wrong))

    assert type(error) is errors.RequestInvalid
    assert [violation.field for violation in error.fields] == [field]


@pytest.mark.parametrize("schema", ["", "{not json", "7"])
async def test_an_invalid_schema_is_refused_with_the_name_of_the_field(target: Target, schema: str) -> None:
    error = await refusal(target, target.spec(constraint=v1.OutputConstraint(json_schema=schema)))

    assert type(error) is errors.SchemaInvalid
    assert [violation.field for violation in error.fields] == ["spec.constraint.json_schema"]


async def test_a_prompt_of_10_mb_is_refused_with_the_name_of_the_field(target: Target) -> None:
    error = await refusal(target, target.spec("x" * 10_000_000))

    assert type(error) is errors.RequestInvalid
    assert [violation.field for violation in error.fields] == ["spec.input"]


async def test_no_refusal_repeats_the_prompt(target: Target) -> None:
    error = await refusal(target, target.spec("my secret diagnosis", sampling=v1.Sampling(n=99)))

    assert "diagnosis" not in repr(vars(error))


# How it ends before its end.


@pytest.mark.parametrize("rpc", ["generate", "events"])
async def test_a_deadline_ends_the_call_and_stops_the_target(target: Target, until: Any, rpc: str) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await getattr(target, rpc)(target.long(), target.call(0.3))

    await until(lambda: target.running() == 0)


async def test_leaving_a_stream_stops_the_target(target: Target, until: Any) -> None:
    async with target.stream(target.long()) as responses:
        async for response in responses:
            if response.event.HasField("delta"):
                # A server may still be counting a call that an earlier test has left.
                assert target.running() >= 1
                break

    await until(lambda: target.running() == 0)


@pytest.mark.parametrize("rpc", ["generate", "events"])
async def test_cancelling_the_task_stops_the_target(target: Target, until: Any, rpc: str) -> None:
    task = asyncio.create_task(getattr(target, rpc)(target.long()))
    await until(lambda: target.running() == 1)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    await until(lambda: target.running() == 0)


async def test_one_that_leaves_takes_no_other_along(target: Target, until: Any) -> None:
    staying = asyncio.create_task(target.events(target.spec()))
    async with target.stream(target.long()) as responses:
        async for _ in responses:
            break

    assert kinds(await staying)[-1] == "usage"
    await until(lambda: target.running() == 0)


async def test_a_failure_never_travels_inside_a_stream_that_ends_well(target: Target, until: Any) -> None:
    if target.break_after is None:
        pytest.skip("this target cannot be made to fail in the middle")
    for rpc in (target.generate, target.events):
        target.break_after(3)
        with pytest.raises(SpillwayError) as raised:
            await rpc(target.spec())
        assert isinstance(raised.value, errors.TargetUnavailable | errors.AnswerAborted)
    await until(lambda: target.running() == 0)


async def test_a_limit_that_is_reached_says_when_to_come_back(target: Target) -> None:
    if target.exhaust is None:
        pytest.skip("this target has no limit that a test can reach")
    for rpc in (target.generate, target.events):
        target.exhaust()
        with pytest.raises(SpillwayError) as raised:
            await rpc(target.spec())
        assert isinstance(raised.value, errors.LimitReached | errors.TargetUnavailable)
        if isinstance(raised.value, errors.LimitReached):
            assert raised.value.retry_after_s == pytest.approx(1.5, abs=0.5)


async def test_after_all_of_this_it_still_answers(target: Target) -> None:
    assert (await target.generate(target.spec())).choices[0].content.text
