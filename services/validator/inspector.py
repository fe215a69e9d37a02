"""Where texts are looked through for sensitive data: at once, or by a worker where that may take long."""

from __future__ import annotations

from collections.abc import Sequence

from services.validator.sensitive.inspection import Seen, see
from services.validator.settings import InspectionSettings
from services.validator.workers import Workers
from spillway.errors import RequestInvalid, SpillwayError
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail


class Inspector:
    """Checks what is brought, looks through it, and tells the trace which kinds there are, never what they say."""

    def __init__(self, settings: InspectionSettings, *, workers: Workers, tracing: Tracing) -> None:
        self._settings = settings
        self._workers = workers
        self._tracing = tracing

    async def inspect(self, call: Call, texts: Sequence[str]) -> list[Seen]:
        """Return what each of `texts` holds, in order.

        Raises RequestInvalid for bounds passed, also where more is found than can be told, or QueueFull.
        """
        span = self._tracing.start(names.FIND_SENSITIVE, call.span)
        try:
            texts = list(texts)
            check(texts, self._settings)
            if self._settings.inline(sum(map(len, texts))):
                found = see(texts)
            else:
                found = await self._workers.inspect(texts)
            count = sum(len(seen.spans) for seen in found)
            span.set_attribute(names.SENSITIVE_SPANS, count)
            span.set_attribute(names.SENSITIVE_KINDS, sorted({one.kind for seen in found for one in seen.spans}))
            if marks := {one.kind for seen in found for one in seen.marks}:
                span.set_attribute(names.INJECTION_MARKS, sorted(marks))
            check_places(count + sum(len(seen.marks) for seen in found), self._settings)
            return found
        except SpillwayError as error:
            fail(span, error.reason)
            raise
        finally:
            span.end()

    def __repr__(self) -> str:
        return f"<Inspector {self._workers!r}>"


def check(texts: Sequence[str], bounds: InspectionSettings, *, size: int = 0) -> None:
    """Raise RequestInvalid for texts that pass `bounds`; `size` bytes of them are taken already."""
    if not texts:
        raise RequestInvalid.at("texts", "is empty: give at least one text")
    if len(texts) > bounds.max_texts:
        raise RequestInvalid.at("texts", f"has {len(texts)} entries; at most {bounds.max_texts} are inspected at once")
    for index, text in enumerate(texts):
        size += len(text.encode())
        if size > bounds.max_bytes:
            raise RequestInvalid.at(
                f"texts[{index}]", f"ends past {bounds.max_bytes} bytes; no more are inspected at once"
            )


def check_places(count: int, bounds: InspectionSettings) -> None:
    """Raise RequestInvalid where more is found than can be told."""
    if count > (most := bounds.max_spans):
        raise RequestInvalid.at("texts", f"hold {count} sensitive places; at most {most} are told at once")
