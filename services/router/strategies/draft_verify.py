"""Draft and verify: a cheap target drafts, a strong one approves the draft or corrects it, segment by segment.

The verifier is shown the numbered segments and names only those that are wrong, each with its correction, so a good
draft costs it a handful of tokens instead of a whole answer. What it accepted is told in `Usage.verification`. When the
draft fails, or what the verifier says cannot be read, the plan goes on as Direct would, after the drafter. When nothing
can verify, the draft is given and says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator

from services.router.attempts import Answer, Attempts
from services.router.failures import Failures
from services.router.work import Work
from spillway import v1

from .strategy import delivered, second_best, whole_stream

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "corrections": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"segment": {"type": "integer"}, "text": {"type": "string"}},
                    "required": ["segment", "text"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["corrections"],
        "additionalProperties": False,
    }
)
INSTRUCTION = """\
Another assistant answered the conversation above. Its answer follows in numbered segments. Check each one.
Answer with JSON alone: {{"corrections": [{{"segment": NUMBER, "text": "REPLACEMENT"}}]}}, one entry for each segment
that is wrong; an empty text removes a segment; no entry for a segment that is right.

{segments}"""
_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")


class DraftVerify:
    """Has a cheap target draft and a strong one check. Its plans have two targets at least."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)
        candidates = failures.still_worth_trying()
        drafter = next(candidates)
        draft = await self._attempts.answer(work, drafter, failures)
        if draft is not None:
            failures.pass_over(drafter.target)
        for candidate in candidates:
            if draft is not None and "json_schema" in candidate.target.capabilities:
                segments = split(draft.response.choices[0].content.text)
                verifier = await self._attempts.answer(
                    work, candidate, failures, spec=verification(work.spec, segments)
                )
                if verifier is None:
                    continue
                corrections = read(verifier.response.choices[0].content.text, len(segments))
                if corrections is not None:
                    return _verified(work, draft, verifier, segments, corrections)
            answer = await self._attempts.answer(work, candidate, failures)
            if answer is not None:
                return delivered(work, answer.response)
        return second_best(work, draft, failures, "a draft that nothing verified")

    def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        return whole_stream(self, work)

    def __repr__(self) -> str:
        return "<DraftVerify>"


def split(text: str) -> list[str]:
    """Cut a text into segments, sentences and lines, that give it back when joined."""
    ends = [found.end() for found in _BREAK.finditer(text)] + [len(text)]
    starts = [0, *ends]
    return [text[start:end] for start, end in zip(starts, ends, strict=False) if start < end]


def verification(spec: v1.GenerationSpec, segments: list[str]) -> v1.GenerationSpec:
    """The request to the verifier."""
    asked = v1.GenerationSpec(
        chat=spec.chat,
        sampling=v1.Sampling(temperature=0),
        constraint=v1.OutputConstraint(json_schema=SCHEMA),
        priority=spec.priority,
        session_id=spec.session_id,
    )
    numbered = "\n".join(f"[{number}] {segment.strip()}" for number, segment in enumerate(segments, 1))
    said = INSTRUCTION.format(segments=numbered)
    asked.chat.messages.add(role=v1.ROLE_USER, parts=[v1.Part(text=said)])
    return asked


def read(text: str, segments: int) -> dict[int, str] | None:
    """Return the corrections a verifier states, by segment from 0; None where it cannot be read."""
    try:
        stated = json.loads(text)["corrections"]
        found = {entry["segment"] - 1: entry["text"] for entry in stated}
    except (ValueError, KeyError, TypeError):
        return None
    sound = all(type(at) is int and 0 <= at < segments and isinstance(said, str) for at, said in found.items())
    return found if sound else None


def corrected(segments: list[str], corrections: dict[int, str]) -> str:
    """The draft with its corrections; each keeps the space after the segment it replaces."""
    pieces = []
    for at, segment in enumerate(segments):
        if at not in corrections:
            pieces.append(segment)
        elif corrections[at]:
            pieces.append(corrections[at] + segment[len(segment.rstrip()) :])
    return "".join(pieces)


def _verified(
    work: Work, draft: Answer, verifier: Answer, segments: list[str], corrections: dict[int, str]
) -> v1.GenerateResponse:
    response = draft.response
    if corrections:
        content = response.choices[0].content
        content.CopyFrom(v1.Delta(text=corrected(segments, corrections)))
    accepted = len(segments) - len(corrections)
    verified_by = verifier.response.started.target
    said = f"drafted; {verified_by} accepted {accepted} of {len(segments)} segments"
    response.started.route_reason = f"{said}; {response.started.route_reason}"
    response.usage.verification.CopyFrom(v1.Verification(target=verified_by, segments=len(segments), accepted=accepted))
    return delivered(work, response)
