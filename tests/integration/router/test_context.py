"""A prompt that does not fit: what arrives at the targets, what is told, and what never leaves the site."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, Literal

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.cache_settings import CacheSettings
from services.router.policy_settings import PolicySettings
from spillway import v1
from spillway.client.answer import Answer
from spillway.errors import ContentFiltered, ContextLengthExceeded, SpillwayError, TargetDown
from spillway.generation import fold
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, count
from spillway.testing.faults import Refuse, Script, Silence
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, running_mesh, text
from tests.integration.router.test_explain import explain

Name = Literal["refuse", "larger", "slide", "summarize", "passages", "map_reduce"]
WINDOW = 2048
"""Of the mesh's local target."""
HOME = v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY)
CANARY = "canary-7f3a"


def at_home(name: Name = "slide", **knobs: Any) -> PolicySettings:
    """A policy under which only the small local target may answer."""
    return PolicySettings(residency="local_only", context=name, **knobs)


def said(role: str, content: str) -> v1.Message:
    return v1.Message(role=v1.Role.Value(f"ROLE_{role.upper()}"), parts=[v1.Part(text=content)])


def conversation(turns: int = 12, words: int = 200) -> v1.GenerationSpec:
    """A system message and `turns` turns of about `words` words, each with its number in it."""
    messages = [said("system", "be brief")]
    for turn in range(turns):
        messages.append(said("user", f"question-{turn} {CANARY} " + "filler " * (words // 2)))
        messages.append(said("assistant", f"answer-{turn} " + "filler " * (words // 2)))
    messages.append(said("user", "and now?"))
    return v1.GenerationSpec(chat=v1.Chat(messages=messages))


def report(paragraphs: int = 60) -> v1.GenerationSpec:
    """A long report with one sentence that matters, and a question about it."""
    weather = "The weather was mild that week. " * 12
    filler = "\n\n".join(f"Section {number}. {weather}" for number in range(paragraphs))
    half = len(filler) // 2
    cut = filler.index("\n\n", half)
    document = f"{filler[:cut]}\n\nThe reactor was stopped because its coolant pump failed.{filler[cut:]}"
    return v1.GenerationSpec(
        chat=v1.Chat(messages=[said("user", document), said("user", "Why was the reactor stopped?")])
    )


def texts(spec: v1.GenerationSpec) -> str:
    return "\n".join(part.text for message in spec.chat.messages for part in message.parts)


def arrived(mesh: Mesh) -> list[v1.GenerationSpec]:
    """What the local target was asked, in order."""
    return [seen.request.spec for seen in mesh.local.seen]


async def test_what_fits_arrives_as_it_was_sent() -> None:
    async with running_mesh(at_home()) as mesh:
        spec = conversation(turns=3)
        answer = await mesh.generate(spec)
        assert arrived(mesh)[0].chat == spec.chat
        assert not answer.usage.HasField("context")


async def test_what_fits_a_larger_target_goes_there_unchanged_rather_than_lose_a_word() -> None:
    async with running_mesh(PolicySettings(context="slide")) as mesh:
        spec = conversation()
        answer = await mesh.generate(spec)
        assert answer.started.target == "cloud"
        assert mesh.cloud.seen[0].request.spec.chat == spec.chat
        assert not answer.usage.HasField("context")


async def test_refuse_does_not_send_elsewhere_what_would_fit_there_and_says_so() -> None:
    async with running_mesh(PolicySettings(context="refuse")) as mesh:
        with pytest.raises(ContextLengthExceeded, match="context_policy larger would make it fit") as refused:
            await mesh.generate(conversation())
        assert refused.value.metadata["context_policies"] == "larger"
        answer = await mesh.generate(conversation(), v1.RoutingPolicy(context_policy=v1.CONTEXT_POLICY_LARGER))
        assert answer.started.target == "cloud"


async def test_refuse_leaves_alone_what_goes_to_the_larger_target_anyway() -> None:
    async with running_mesh(PolicySettings(context="refuse", local_context_limit=1000)) as mesh:
        assert (await mesh.generate(conversation())).started.target == "cloud"


async def test_a_refusal_gives_numbers_and_the_policies_that_would_help() -> None:
    async with running_mesh(at_home("larger")) as mesh:
        spec = conversation()
        with pytest.raises(ContextLengthExceeded, match=rf"{count(spec)} tokens .*context of {WINDOW}") as refused:
            await mesh.generate(spec)
        assert refused.value.metadata["context_policies"] == "slide, summarize"
        with pytest.raises(ContextLengthExceeded) as refused:
            await mesh.generate(report())
        assert refused.value.metadata["context_policies"] == "passages, map_reduce"
        assert mesh.local.seen == mesh.cloud.seen == []


async def test_a_text_prompt_is_never_changed() -> None:
    async with running_mesh(at_home("passages")) as mesh:
        with pytest.raises(ContextLengthExceeded) as refused:
            await mesh.generate(text("word " * 3000))
        assert "context_policies" not in refused.value.metadata


async def test_slide_drops_the_oldest_turns_whole_and_says_so_in_both_forms() -> None:
    async with running_mesh(at_home()) as mesh:
        spec = conversation()
        for answer in (await mesh.generate(spec), await fold(mesh.stream(spec))):
            got = arrived(mesh)[-1]
            kept = len(got.chat.messages)
            assert got.chat.messages[0] == spec.chat.messages[0]
            assert list(got.chat.messages[1:]) == list(spec.chat.messages[1 - kept :])
            assert got.chat.messages[1].role == v1.ROLE_USER
            change = answer.usage.context
            assert change.policy == v1.CONTEXT_POLICY_SLIDE
            assert change.dropped_messages == len(spec.chat.messages) - kept > 0
            assert (change.tokens_before, change.tokens_after) == (count(spec), count(got))
            assert count(got) <= WINDOW - 256  # room for the answer
            assert Answer(answer).context == change


async def test_what_arrives_fits_also_where_tokens_are_not_spread_as_bytes_are() -> None:
    async with running_mesh(at_home()) as mesh:
        spec = conversation(turns=2)
        for message in spec.chat.messages[1:]:
            message.parts[0].text = "longish" * 2000  # one token
        for turn in range(20):
            spec.chat.messages.append(said("user", f"{turn} " + "a " * 150))
            spec.chat.messages.append(said("assistant", "b " * 150))
        answer = await mesh.generate(spec)
        (got,) = arrived(mesh)
        assert WINDOW / 4 < count(got) == answer.usage.context.tokens_after <= WINDOW - 256


async def test_the_span_of_the_request_says_what_was_done() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)
    async with running_mesh(at_home(), tracing=tracing) as mesh:
        change = (await mesh.generate(conversation())).usage.context
    tracing.flush()
    (told,) = [one for span in exporter.get_finished_spans() if names.CONTEXT in (one := dict(span.attributes or {}))]
    assert told[names.CONTEXT] == "slide"
    assert told[names.CONTEXT_BEFORE] == change.tokens_before
    assert told[names.CONTEXT_AFTER] == change.tokens_after
    tracing.close()


async def test_the_answer_gets_the_room_it_asks_for() -> None:
    async with running_mesh(at_home()) as mesh:
        spec = conversation()
        spec.sampling.max_tokens = 900
        await mesh.generate(spec)
        assert count(arrived(mesh)[0]) <= WINDOW - 900


async def test_explain_says_what_would_be_done_and_does_nothing() -> None:
    async with running_mesh(at_home()) as mesh:
        spec = conversation()
        for policy in (v1.CONTEXT_POLICY_SLIDE, v1.CONTEXT_POLICY_SUMMARIZE):
            asked = v1.RoutingPolicy(context_policy=policy)
            plan = await explain(mesh, spec, asked)
            assert mesh.local.seen == []
            assert plan.context == (await mesh.generate(spec, asked)).usage.context
            assert plan.prompt_tokens == plan.context.tokens_after
            assert "context " in plan.reason
            mesh.local.seen.clear()


def summarizing(spec: v1.GenerationSpec) -> str:
    return "they spoke of fillers" if "Summarize the conversation" in texts(spec) else "the answer"


async def test_older_turns_become_a_summary_in_the_users_own_place() -> None:
    async with running_mesh(at_home("summarize", keep_last_turns=2), local=FakeEngine("small", summarizing)) as mesh:
        spec = conversation()
        answer = await mesh.generate(spec)
        *asked, got = arrived(mesh)
        assert "question-0 " in texts(asked[0])
        assert all(count(one) + one.sampling.max_tokens <= WINDOW for one in asked)
        assert [message.role for message in got.chat.messages] == [v1.ROLE_SYSTEM, v1.ROLE_USER, *spec_end(spec)]
        assert "they spoke of fillers" in got.chat.messages[1].parts[0].text
        assert "question-10" not in texts(got)
        assert "question-11" in texts(got)
        assert got.chat.messages[-1] == spec.chat.messages[-1]
        change = answer.usage.context
        assert change.summarized_messages == len(spec.chat.messages) - 4
        assert change.chunks == len(asked) == len(answer.usage.attempts) - 1
        assert answer.choices[0].content.text == "the answer"
        assert mesh.outcomes() == ["local:answered"] * (len(asked) + 1)


def spec_end(spec: v1.GenerationSpec) -> Iterator[v1.Role.ValueType]:
    """Roles of the last two messages."""
    return (message.role for message in spec.chat.messages[-2:])


async def test_a_summary_that_is_too_long_is_cut() -> None:
    wordy = FakeEngine("small", lambda spec: "word " * 5000 if "Summarize the" in texts(spec) else "the answer")
    async with running_mesh(at_home("summarize", summary_tokens=50), local=wordy) as mesh:
        await mesh.generate(conversation())
        got = arrived(mesh)[-1]
        assert texts(got).count("word") <= 50


async def test_a_conversation_is_summarized_only_at_home_even_if_it_may_leave() -> None:
    policy = PolicySettings(context="summarize", order=("local",))
    async with running_mesh(policy) as mesh:
        mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
        with pytest.raises(SpillwayError):
            await mesh.generate(conversation(), v1.RoutingPolicy(data_policy=HOME))
        with pytest.raises(SpillwayError):
            await mesh.generate(conversation())
        assert mesh.cloud.seen == []
        assert set(mesh.outcomes()) == {"local:failed"}


@pytest.mark.parametrize("name", ["slide", "summarize", "passages", "map_reduce"])
async def test_no_policy_takes_a_local_only_prompt_off_the_site(name: Name) -> None:
    async with running_mesh(PolicySettings(context=name)) as mesh:
        for spec in (conversation(), report()):
            for faults in (Script(), Script(always=Refuse(TargetDown("gone")))):
                mesh.local.faults = faults
                try:
                    answer = await mesh.generate(spec, v1.RoutingPolicy(data_policy=HOME))
                    assert not any(attempt.left_site for attempt in answer.usage.attempts)
                except SpillwayError:
                    continue
        assert mesh.cloud.seen == []


async def test_a_target_that_the_caller_denies_makes_no_summary() -> None:
    async with running_mesh(PolicySettings(context="summarize")) as mesh:
        spec = conversation()
        spec.chat.messages.extend(conversation(turns=800).chat.messages[1:])  # too much for the cloud too
        with pytest.raises(ContextLengthExceeded):
            await mesh.generate(spec, v1.RoutingPolicy(denied_targets=["local"]))
        assert mesh.local.seen == mesh.cloud.seen == []


async def test_the_cloud_may_answer_what_was_summarized_at_home() -> None:
    async with running_mesh(
        PolicySettings(context="summarize", max_chunks=200), local=FakeEngine("small", summarizing)
    ) as mesh:
        spec = conversation(turns=800)
        answer = await mesh.generate(spec)
        assert answer.started.target == "cloud"
        assert "they spoke of fillers" in texts(mesh.cloud.seen[0].request.spec)
        assert [attempt.left_site for attempt in answer.usage.attempts] == [False] * len(mesh.local.seen) + [True]


async def test_every_call_for_a_summary_carries_the_stamp_and_the_deadline_of_its_request() -> None:
    async with running_mesh(at_home("summarize")) as mesh:
        await mesh.generate(conversation(), deadline_s=7)
        stamps = [seen.request.stamp for seen in mesh.local.seen]
        assert len(stamps) > 1
        assert all(stamp.data_policy.residency == v1.RESIDENCY_LOCAL_ONLY for stamp in stamps)
        assert all(seen.deadline.left() <= 7 for seen in mesh.local.seen)
        assert [stamp.attempt for stamp in stamps] == list(range(1, len(stamps) + 1))


async def test_a_summary_that_says_nothing_is_an_error_and_not_a_gap() -> None:
    async with running_mesh(at_home("summarize"), local=FakeEngine("small", lambda spec: "")) as mesh:
        with pytest.raises(SpillwayError, match="wrote nothing"):
            await mesh.generate(conversation())


async def test_the_passages_that_answer_the_question_arrive_with_marks_where_others_were() -> None:
    async with running_mesh(at_home("passages")) as mesh:
        answer = await mesh.generate(report())
        (got,) = arrived(mesh)
        assert "its coolant pump failed" in texts(got)
        assert "Why was the reactor stopped?" in texts(got)
        assert "[... left out ...]" in texts(got)
        change = answer.usage.context
        assert change.kept_passages > 0
        assert change.dropped_passages > 0
        assert change.tokens_after == count(got) <= WINDOW - 256


def reading(spec: v1.GenerationSpec) -> str:
    if "is too long to read at once" not in texts(spec):
        return "the answer"
    return "NOTE: the pump failed" if "coolant" in texts(spec) else "nothing here"


async def test_every_part_of_a_document_is_read_and_the_answer_is_made_of_the_notes() -> None:
    async with running_mesh(at_home("map_reduce", chunk_tokens=800), local=FakeEngine("small", reading)) as mesh:
        spec = report()
        answer = await mesh.generate(spec)
        *parts, got = arrived(mesh)
        assert all("Why was the reactor stopped?" in texts(part) for part in parts)
        for number in range(60):
            assert any(f"Section {number}." in texts(part) for part in parts)
        assert "NOTE: the pump failed" in texts(got)
        assert "mild" not in texts(got)
        assert answer.usage.context.chunks == len(parts) == len(answer.usage.attempts) - 1
        assert answer.choices[0].content.text == "the answer"


async def test_a_part_that_cannot_be_read_fails_the_request_and_ends_the_others() -> None:
    def refusing(spec: v1.GenerationSpec) -> str:
        if "part 2 of" in texts(spec):
            raise ContentFiltered("not this part")
        return "word " * 1000

    slow = FakeEngine("small", refusing, interval_s=0.1)
    async with running_mesh(at_home("map_reduce", chunk_tokens=800), local=slow) as mesh:
        with pytest.raises(ContentFiltered):
            await mesh.generate(report())
        await eventually(lambda: not slow.running)
        assert slow.finished == 0
        assert sorted(mesh.outcomes()) == ["local:cancelled"] * (len(mesh.kept) - 1) + ["local:failed"]


async def test_a_caller_that_leaves_ends_the_reading() -> None:
    async with running_mesh(at_home("map_reduce", chunk_tokens=800), local=FakeEngine("small", reading)) as mesh:
        mesh.local.faults = Script(always=Silence())
        async with aclosing(mesh.stream(report())) as events:
            waiting = asyncio.create_task(anext(events))
            await eventually(lambda: mesh.local.running > 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await eventually(lambda: not mesh.local.running)
        assert set(mesh.outcomes()) == {"local:cancelled"}


async def test_two_context_policies_never_share_an_answer_and_a_hit_tells_what_was_dropped() -> None:
    async with embedded_valkey() as url:
        cache = CacheSettings(enabled=True, sensitive_ttl_s=60, store=StoreSettings(url=url))
        async with running_mesh(at_home("slide"), local=FakeEngine("small", summarizing), cache=cache) as mesh:
            spec = conversation()

            async def ask(policy: v1.ContextPolicy.ValueType) -> v1.Usage:
                asked = v1.RoutingPolicy(context_policy=policy, cache=v1.CACHE_MODE_USE)
                return (await mesh.generate(spec, asked)).usage

            first = await ask(v1.CONTEXT_POLICY_UNSPECIFIED)
            other = await ask(v1.CONTEXT_POLICY_SUMMARIZE)
            assert not other.HasField("cache")
            calls = len(mesh.local.seen)
            for policy, made in ((v1.CONTEXT_POLICY_SLIDE, first), (v1.CONTEXT_POLICY_SUMMARIZE, other)):
                hit = await ask(policy)
                assert hit.HasField("cache")
                assert hit.context == made.context
            assert len(mesh.local.seen) == calls  # a kept answer costs no summary
