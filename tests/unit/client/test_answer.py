from __future__ import annotations

from spillway import v1
from spillway.client.answer import Answer


def test_a_choice_becomes_the_assistants_message_of_the_next_turn() -> None:
    state = v1.ProviderState(wire="anthropic", state=b"signed")
    content = v1.Delta(
        text="Let me look.",
        reasoning="hm",
        tool_calls=[v1.ToolCallDelta(index=0, id="c", name="look", arguments="{}")],
        provider_state=state,
    )
    answer = Answer(v1.GenerateResponse(choices=[v1.Choice(content=content), v1.Choice()]))
    assert answer.turn() == v1.Message(
        role=v1.ROLE_ASSISTANT,
        parts=[
            v1.Part(provider_state=state),
            v1.Part(text="Let me look."),
            v1.Part(tool_call=v1.ToolCall(id="c", name="look", arguments="{}")),
        ],
    )
    assert answer.turn(1) == v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text="")])
