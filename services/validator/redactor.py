"""Where placeholders take the place of sensitive data and give it back: at once, or by a worker for long texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

from opentelemetry.trace import Span

from services.validator.inspector import check, check_places
from services.validator.sensitive.inspection import KINDS
from services.validator.sensitive.redaction import Redacted, redact, restore
from services.validator.settings import InspectionSettings
from services.validator.workers import Workers
from spillway.errors import RequestInvalid, SpillwayError
from spillway.placeholders import Placeholder, well_formed
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail


class Redactor:
    """Keeps nothing: who asks has the placeholders. The trace is told kinds and numbers, never what they stand for."""

    def __init__(self, settings: InspectionSettings, *, workers: Workers, tracing: Tracing) -> None:
        self._settings = settings
        self._workers = workers
        self._tracing = tracing

    async def redact(self, call: Call, texts: Sequence[str], kinds: Set[str], known: Sequence[Placeholder]) -> Redacted:
        """Return `texts` with placeholders for what is of `kinds`, of all kinds if there are none.

        Raises RequestInvalid for bounds passed, kinds that nothing finds and placeholders that are none, or QueueFull.
        """
        with self._span(names.REDACT, call) as span:
            if kinds - KINDS - self._workers.kinds:
                known_kinds = ", ".join(sorted(KINDS | self._workers.kinds))
                raise RequestInvalid.at("kinds", f"nothing looks for some of them; there are {known_kinds}")
            texts = list(texts)
            work = self._check(texts, known)
            if self._settings.inline(work):
                told = redact(texts, kinds, known)
            else:
                told = await self._workers.redact(texts, kinds, known)
            span.set_attribute(names.SENSITIVE_SPANS, told.places)
            span.set_attribute(names.SENSITIVE_KINDS, sorted(told.kinds))
            span.set_attribute(names.PLACEHOLDERS, len(told.placeholders))
            check_places(told.places, self._settings)
            return told

    async def restore(self, call: Call, texts: Sequence[str], placeholders: Sequence[Placeholder]) -> list[str]:
        """Return `texts` with what their placeholders stand for.

        Raises RequestInvalid for bounds passed, also by what would be returned, or QueueFull.
        """
        with self._span(names.RESTORE, call) as span:
            span.set_attribute(names.PLACEHOLDERS, len(placeholders))
            texts = list(texts)
            work = self._check(texts, placeholders)
            most = self._settings.max_bytes
            if work <= self._settings.inline_chars:
                return restore(texts, placeholders, most)
            return await self._workers.restore(texts, placeholders, most)

    @contextmanager
    def _span(self, name: str, call: Call) -> Iterator[Span]:
        span = self._tracing.start(name, call.span)
        try:
            yield span
        except SpillwayError as error:
            fail(span, error.reason)
            raise
        finally:
            span.end()

    def _check(self, texts: Sequence[str], placeholders: Sequence[Placeholder]) -> int:
        """Return the characters there are to go through."""
        bounds = self._settings
        if len(placeholders) > bounds.max_spans:
            raise RequestInvalid.at("placeholders", f"has {len(placeholders)} entries; {bounds.max_spans} are the most")
        seen: set[str] = set()
        size = 0
        for index, one in enumerate(placeholders):
            if not well_formed(one.token):
                raise RequestInvalid.at(f"placeholders[{index}].token", "is not of the form [KIND_1]")
            if one.token in seen:
                raise RequestInvalid.at(f"placeholders[{index}].token", "stands there twice")
            if not one.original:
                raise RequestInvalid.at(f"placeholders[{index}].original", "is empty")
            seen.add(one.token)
            size += len(one.original.encode())
        check(texts, bounds, size=size)
        return sum(map(len, texts)) + size

    def __repr__(self) -> str:
        return f"<Redactor {self._workers!r}>"
