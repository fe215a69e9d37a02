"""What targets on the site wrote goes on redacted: drafts, summaries, material for a judge; however it is told."""

from __future__ import annotations

import json

import pytest

from spillway import v1
from spillway.errors import AllTargetsFailed, StreamInterrupted
from spillway.testing.faults import Cut, Script
from tests.integration.router.mesh import chat
from tests.integration.router.test_redaction import (
    CLOUD_FIRST,
    HOME_FIRST,
    MAIL,
    PROMPT,
    left,
    meshes,
    streamed,
)

KEY = f"-----BEGIN PRIVATE KEY-----\n{'MIIEvQ2x' * 8}\n{'IBADANBg' * 8}\n-----END PRIVATE KEY-----"
BACKSLASHED = "Xk2\\9!vQ"
TWO_LINES = "4012 8888\n8888 1881"
CASCADE = HOME_FIRST.model_copy(update={"strategy": "cascade", "samples": 3, "judge": "cloud"})


async def test_half_of_an_original_that_an_answer_ends_with_is_not_shown_to_a_judge_off_the_site() -> None:
    async with meshes(CASCADE) as (mesh, recorder):
        mesh.local.answer = lambda spec: "I have written to ann.lee@ex"
        mesh.local.probability = 0.9
        await mesh.generate(chat(PROMPT))
        assert left(recorder) == []


async def test_what_was_cut_within_something_sensitive_stays() -> None:
    """The caller has half of an address, which nobody would find in what goes on with it."""
    policy = HOME_FIRST.model_copy(update={"continue_on": "any_model", "max_retries_per_target": 0})
    async with meshes(policy, capabilities=["prefill"]) as (mesh, recorder):
        mesh.local.answer = lambda spec: "I have written to ann.lee@ex"
        mesh.local.faults = Script(always=Cut(5))
        with pytest.raises(StreamInterrupted) as ended:
            await streamed(mesh, chat(PROMPT))
        assert "ann" not in repr(ended.value)
        assert not mesh.cloud.seen
        assert left(recorder) == []


@pytest.mark.parametrize("original", [KEY, TWO_LINES])
async def test_an_original_of_several_lines_that_is_cut_into_segments_stays(original: str) -> None:
    policy = HOME_FIRST.model_copy(update={"strategy": "draft_verify"})
    async with meshes(policy) as (mesh, recorder):
        mesh.local.answer = lambda spec: f"It is this one.\n{original}\nNothing else."
        mesh.cloud.answer = lambda spec: '{"corrections": []}'
        await mesh.generate(chat(f"Which is it, my card or key? It is {original}\nOr is it not?"))
        for line in original.splitlines():
            assert line.encode() not in bytes(recorder.left)


async def test_what_json_escapes_is_found_in_the_result_of_a_tool() -> None:
    note = f'\n{MAIL} "'
    call = v1.ToolCall(id="c1", name="find", arguments="{}")
    result = v1.ToolResult(tool_call_id="c1", content=json.dumps({"to": MAIL, "note": note}).replace("@", "\\u0040"))
    spec = chat("Who was it?")
    spec.chat.messages.add(role=v1.ROLE_ASSISTANT, parts=[v1.Part(tool_call=call)])
    spec.chat.messages.add(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=result)])
    async with meshes(CLOUD_FIRST, capabilities=["tools"]) as (mesh, recorder):
        mesh.cloud.answer = lambda spec: spec.chat.messages[2].parts[0].tool_result.content
        response = await mesh.generate(spec)
        assert left(recorder) == []
        assert response.started.target == "cloud"
        told = mesh.cloud.seen[0].request.spec.chat.messages[2].parts[0].tool_result.content
        assert json.loads(told) == {"to": "[EMAIL_1]", "note": '\n[EMAIL_1] "'}


async def test_an_original_that_json_escapes_in_a_text_stays() -> None:
    said = f"The log has {json.dumps({'it': BACKSLASHED})}. The password is {BACKSLASHED} of course."
    async with meshes(CLOUD_FIRST) as (mesh, recorder):
        mesh.local.answer = lambda spec: "on the site"
        await mesh.generate(chat(said))
        assert b"9!vQ" not in bytes(recorder.left)


async def test_a_summary_that_ends_within_an_original_stays() -> None:
    """What it is a summary of does not leave, so nothing else tells what half of it is the beginning of."""
    policy = CLOUD_FIRST.model_copy(update={"context": "summarize", "summary_tokens": 32, "keep_last_turns": 60})
    spec = chat(PROMPT)
    for turn in range(140):
        role = v1.ROLE_USER if turn % 2 else v1.ROLE_ASSISTANT
        spec.chat.messages.add(role=role, parts=[v1.Part(text="It is a long story. " * 200)])
    async with meshes(policy) as (mesh, recorder):
        mesh.local.answer = lambda spec: "They write to ann.lee@ex"
        mesh.cloud.answer = lambda spec: "and they were told"
        with pytest.raises(AllTargetsFailed):
            await mesh.generate(spec)
        assert mesh.local.seen, "it was summarized"
        assert left(recorder) == []


async def test_a_session_that_is_named_by_an_original_is_not_named_so_off_the_site() -> None:
    spec = chat(PROMPT)
    spec.session_id = MAIL
    async with meshes() as (mesh, recorder):
        assert (await mesh.generate(spec)).started.target == "cloud"
        assert left(recorder) == []
