"""The items of an answer, kept and brought back in their order."""

from __future__ import annotations

from typing import Any

from services.cloud_proxy.wires.openai_responses_state import WIRE, kept, restored
from spillway import v1

CALLS = [v1.ToolCall(id="c1", name="look", arguments="{}"), v1.ToolCall(id="c2", name="go", arguments="{}")]
LOOK = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
GO = {**LOOK, "call_id": "c2", "name": "go"}
BOTH = [LOOK, GO]


def thought(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"rs_{number}", "type": "reasoning", "summary": [], "encrypted_content": f"enc{number}", **more}


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "msg", "type": "message", "content": [{"type": "output_text", "text": text}], **more}


def state(*items: dict[str, Any], stored: bool = False) -> bytes:
    found = kept(items, stored=stored)
    assert found is not None
    assert found.wire == WIRE
    return found.state


def test_the_items_come_back_in_their_order() -> None:
    items = state(thought(1), message("I look", phase="commentary"), LOOK, thought(2), message("ed."), GO)
    assert restored(items, "I looked.", CALLS) == [
        thought(1),
        {"role": "assistant", "content": "I look", "phase": "commentary"},
        LOOK,
        thought(2),
        {"role": "assistant", "content": "ed."},
        GO,
    ]


def test_of_an_answer_that_the_caller_changed_reasoning_comes_first() -> None:
    items = state(thought(1), message("I look"), LOOK, thought(2), GO)
    changed = [thought(1), thought(2), {"role": "assistant", "content": "You look."}]
    assert restored(items, "You look.", CALLS) == [*changed, *BOTH]
    assert restored(items, "You look.", []) == changed


def test_an_answer_without_a_state_is_its_text_and_its_calls() -> None:
    assert restored(b"", "I look.", CALLS) == [{"role": "assistant", "content": "I look."}, *BOTH]
    assert restored(b"", "", []) == []


def test_an_answer_that_its_text_and_calls_tell_whole_has_no_state() -> None:
    assert kept([message("hello"), LOOK], stored=False) is None
    assert kept([], stored=False) is None


def test_a_phase_alone_is_kept() -> None:
    items = state(message("hello", phase="final_answer"))
    assert restored(items, "hello", []) == [{"role": "assistant", "content": "hello", "phase": "final_answer"}]


def test_reasoning_that_nobody_could_read_again_is_not_kept() -> None:
    bare = {"id": "rs_1", "type": "reasoning", "summary": []}
    assert kept([bare, message("hello")], stored=False) is None
    assert restored(state(bare, message("hello"), stored=True), "hello", [])[0] == bare
    assert kept([message("hello"), thought(1)], stored=False) is None  # the answer ended within it


def test_what_is_absent_of_reasoning_is_not_sent_back_as_null() -> None:
    assert restored(state(thought(1, status=None), message("a")), "a", [])[0] == thought(1)


def test_an_item_of_another_kind_is_kept_whole() -> None:
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
    assert restored(state(search, message("found")), "found", [])[0] == search
