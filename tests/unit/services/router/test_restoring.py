"""What placeholders stand for is put back into answers, whole or streamed, wherever they stand."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, Iterable

import pytest

from services.router.restoring import MOST, Restoring
from spillway import v1
from spillway.errors import OutputInvalid
from spillway.generation import Folder
from spillway.placeholders import Placeholder

NOTE = 'a "word"\nand more'
PLACEHOLDERS = (Placeholder("[EMAIL_1]", "ann@example.org", "email"), Placeholder("[SECRET_1]", NOTE, "secret"))
PLAIN = v1.GenerationSpec()
JSON = v1.GenerationSpec(constraint=v1.OutputConstraint(json_object=True))
SAID = "Dear [EMAIL_1], [SECRET_1] is [not yours], [EMAIL_12] [EM"
MEANT = f"Dear ann@example.org, {NOTE} is [not yours], [EMAIL_12] [EM"


async def answer(deltas: Iterable[v1.Delta], choices: int = 1) -> AsyncGenerator[v1.GenerationEvent]:
    finishes = [v1.ChoiceFinish(choice=choice, stop_string="to [EMAIL_1]") for choice in range(choices)]
    told = [
        v1.GenerationEvent(started=v1.Started()),
        *(v1.GenerationEvent(delta=delta) for delta in deltas),
        v1.GenerationEvent(finished=v1.Finished(choices=finishes)),
        v1.GenerationEvent(usage=v1.Usage(completion_tokens=9)),
    ]
    for sequence, event in enumerate(told):
        event.sequence = sequence
        yield event


def cut(text: str, rng: random.Random) -> list[str]:
    pieces = []
    while text:
        size = rng.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


async def folded(events: AsyncGenerator[v1.GenerationEvent]) -> v1.GenerateResponse:
    folder = Folder()
    async for event in events:
        folder.add(event)
    return folder.whole()


@pytest.mark.parametrize("seed", range(20))
async def test_a_stream_is_restored_wherever_it_is_cut_each_choice_and_field_by_itself(seed: int) -> None:
    rng = random.Random(seed)
    written = json.dumps({"note": "[SECRET_1]", "to": "[EMAIL_1]"})
    pieces = [v1.Delta(choice=choice, text=piece) for choice in (0, 1) for piece in cut(SAID, rng)]
    thoughts = [v1.Delta(reasoning=piece, token_ids=[1], tokens=1) for piece in cut(SAID, rng)]
    calls = [v1.Delta(tool_calls=[v1.ToolCallDelta(index=1, arguments=piece)]) for piece in cut(written, rng)]
    deltas, queues = list[v1.Delta](), [pieces, thoughts, calls]
    while any(queues):
        deltas.append(rng.choice([queue for queue in queues if queue]).pop(0))
    response = await folded(Restoring(PLAIN, PLACEHOLDERS).events(answer(deltas, 2)))
    first, second = (choice.content for choice in response.choices)
    assert (first.text, second.text, first.reasoning) == (MEANT, MEANT, MEANT)
    assert json.loads(first.tool_calls[0].arguments) == {"note": NOTE, "to": "ann@example.org"}
    assert not first.token_ids
    assert response.choices[0].finish.stop_string == "to ann@example.org"


async def test_json_that_was_asked_for_stays_json() -> None:
    written = json.dumps({"note": "[SECRET_1]"})
    deltas = [v1.Delta(text=piece) for piece in cut(written, random.Random(1))]
    streamed = await folded(Restoring(JSON, PLACEHOLDERS).events(answer(deltas)))
    whole = Restoring(JSON, PLACEHOLDERS).whole(await folded(answer([v1.Delta(text=written)])))
    for response in (streamed, whole):
        assert json.loads(response.choices[0].content.text) == {"note": NOTE}


async def test_a_whole_answer_is_restored_as_a_stream_is() -> None:
    call = v1.ToolCallDelta(index=0, name="mail", arguments='{"to": "[EMAIL_1]"}')
    told = v1.TokenLogprob(token="[EMAIL_1]", logprob=-1)
    delta = v1.Delta(text=SAID, reasoning=SAID, tool_calls=[call], logprobs=[told], token_ids=[1], tokens=1)
    response = Restoring(PLAIN, PLACEHOLDERS).whole(await folded(answer([delta])))
    content = response.choices[0].content
    assert (content.text, content.reasoning) == (MEANT, MEANT)
    assert content.tool_calls[0].arguments == '{"to": "ann@example.org"}'
    assert content.logprobs[0].token == "[EMAIL_1]", "tokens are the target's own"
    assert not content.token_ids


async def test_an_answer_that_starts_again_has_nothing_of_the_one_before() -> None:
    events = [
        v1.GenerationEvent(delta=v1.Delta(text="so [EMA")),
        v1.GenerationEvent(route_changed=v1.RouteChanged(restarted=True)),
        v1.GenerationEvent(delta=v1.Delta(text="IL_1] it is")),
        v1.GenerationEvent(finished=v1.Finished(choices=[v1.ChoiceFinish()])),
        v1.GenerationEvent(usage=v1.Usage()),
    ]

    async def told() -> AsyncGenerator[v1.GenerationEvent]:
        for event in events:
            yield event

    response = await folded(Restoring(PLAIN, PLACEHOLDERS).events(told()))
    assert response.choices[0].content.text == "IL_1] it is"


async def test_with_nothing_to_put_back_an_answer_is_as_it_came_with_its_tokens() -> None:
    delta = v1.Delta(text=SAID, token_ids=[1, 2])
    streamed = await folded(Restoring(PLAIN, ()).events(answer([delta])))
    whole = Restoring(PLAIN, ()).whole(await folded(answer([delta])))
    assert streamed == whole == await folded(answer([delta]))


async def test_an_answer_does_not_grow_beyond_all_bounds() -> None:
    large = (Placeholder("[SECRET_1]", "x" * (MOST // 2), "secret"),)
    with pytest.raises(OutputInvalid):
        await folded(Restoring(PLAIN, large).events(answer([v1.Delta(text="[SECRET_1]")] * 3)))
    with pytest.raises(OutputInvalid):
        Restoring(PLAIN, large).whole(await folded(answer([v1.Delta(text="[SECRET_1]" * 3)])))
    assert "xxx" not in repr(Restoring(PLAIN, large))
