"""A leg of a live stream: what one target is asked, and what of its answer the caller does not have yet.

Another model goes on with a text, not with tokens. One that takes a prefill is given the text as the beginning of its
own answer; any other is shown it and asked to begin with its last words, by which is seen that it goes on. The answer
is held back until that is certain, at most for as long as the text before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from spillway import v1
from spillway.record import record
from spillway.tokens import estimated

from .overlap import Overlap
from .target import Target

INSTRUCTION = (
    "Your last message was cut off. Go on with it from exactly where it ends, in the same language and form, without "
    "any comment and without starting over. Begin by repeating its last words exactly as they stand here, then go on:"
    "\n\n"
)

Events = AsyncGenerator[v1.GenerationEvent]


@record
class Leg:
    """`goes_on`: the answer goes on with what the caller has. `overlap`: with the text alone, by another model."""

    spec: v1.GenerationSpec
    goes_on: bool = False
    overlap: Overlap | None = None

    def new(self, events: Events) -> Events:
        """Yield `events` without the text that the caller has; what goes on is told from where that is certain.

        Raises Astray where the answer does not go on. Reasoning of another model about how to go on is left out, and so
        are its token ids, which are of another tokenizer.
        """
        return events if self.overlap is None else _after(self.overlap, events)

    def __repr__(self) -> str:
        return f"<Leg {repr(self.overlap) if self.overlap else 'by tokens' if self.goes_on else 'anew'}>"


async def _after(overlap: Overlap, events: Events) -> Events:
    held: list[v1.GenerationEvent] = []
    said, tokens, repeated, joined = "", 0, 0, False
    async with aclosing(events):
        async for event in events:
            kind = event.WhichOneof("event")
            if kind in ("started", "route_changed") and not joined:
                held.append(event)
                continue
            if kind == "delta":
                delta = event.delta
                if delta.reasoning and not delta.text:
                    continue
                delta.reasoning = ""
                del delta.token_ids[:]
            if not joined and kind in ("delta", "finished"):
                said += event.delta.text
                tokens += event.delta.tokens
                at = overlap.joint(said, over=kind == "finished")
                if at is None:
                    continue
                joined = True
                if kind == "finished":
                    held.append(v1.GenerationEvent(delta=v1.Delta(text=said[at:], tokens=0 if at else tokens)))
                    repeated = tokens if at else 0
                else:
                    delta.text = said[at:]
                    if not at and tokens:
                        delta.tokens = tokens  # held back, and nothing of it repeated
                    elif at and not delta.text and delta.tokens:
                        delta.tokens = 0
                    repeated = tokens - delta.tokens
            elif kind == "usage" and event.usage.HasField("completion_tokens"):
                event.usage.completion_tokens = max(0, event.usage.completion_tokens - repeated)
            for waiting in held:
                yield waiting
            held.clear()
            yield event


def crossing(spec: v1.GenerationSpec, sent: str, tokens: int, target: Target) -> Leg | None:
    """The leg on which `target` goes on with `sent`, `tokens` long, in answer to `spec`; None: it cannot.

    Limits are those of what is still to come. A stop string that has begun would not be seen by another target.
    """
    if any(sent.endswith(stop[:size]) for stop in spec.stop.strings for size in range(1, len(stop))):
        return None
    overlap = Overlap(sent, exact="prefill" in target.capabilities)
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    extra = 0
    if overlap.exact:
        asked.continuation.text = sent
    elif overlap.anchor and spec.HasField("chat") and spec.chat.messages[-1].role != v1.ROLE_ASSISTANT:
        asked.chat.messages.add(role=v1.ROLE_ASSISTANT).parts.add().text = sent
        asked.chat.messages.add(role=v1.ROLE_USER).parts.add().text = INSTRUCTION + overlap.anchor
        extra = estimated(len(overlap.anchor.encode()))
    else:
        return None
    if spec.sampling.HasField("max_tokens"):
        if tokens >= spec.sampling.max_tokens:
            return None
        asked.sampling.max_tokens += extra - tokens
    if spec.sampling.min_tokens:
        asked.sampling.min_tokens = max(0, spec.sampling.min_tokens - tokens)
    return Leg(asked, True, overlap)
