"""The condenser: carries out what was planned for a prompt that does not fit, then has the rest answered.

What it asks of targets are attempts like any other: the same data policy, deadline and journal. It is a strategy around
the plan's own one, so a kept answer costs no summary.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from spillway import v1
from spillway.errors import OutputInvalid
from spillway.tokens import estimated

from .chain import binding
from .condensation import condensed, note_specs, summary_spec, transcript
from .facts import ContextName
from .reading import tell_fit
from .strategies import Strategy
from .work import Work

AT_ONCE = 4
"""Parts of one document that are read at the same time."""


class Condenser:
    """Makes prompts fit. `reader` has summaries and notes made, `strategy` the answer."""

    def __init__(self, reader: Strategy, strategy: Strategy) -> None:
        self._reader = reader
        self._strategy = strategy

    async def generate(self, work: Work) -> v1.GenerateResponse:
        response = await self._strategy.generate(await self._condensed(work))
        _tell(work, response.usage)
        return response

    async def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        async with aclosing(self._strategy.stream(await self._condensed(work))) as events:
            async for event in events:
                if event.HasField("usage"):
                    _tell(work, event.usage)
                yield event

    async def _condensed(self, work: Work) -> Work:
        fit = work.plan.fit
        assert fit is not None
        written: list[str] = []
        work.journal.beside += len(fit.chunks)
        if fit.policy is ContextName.SUMMARIZE:
            text, summary = transcript(work.spec, fit.summarized), ""
            for first, last in fit.chunks:
                summary = await self._read(work, summary_spec(work.spec, summary, text[first:last], fit.each))
            written = [summary]
            work.vault.before = work.spec
        elif fit.policy is ContextName.MAP_REDUCE:
            written = await self._notes(work, await asyncio.to_thread(note_specs, work.spec, fit))
        return replace(work, spec=await asyncio.to_thread(condensed, work.spec, fit, written))

    async def _notes(self, work: Work, specs: list[v1.GenerationSpec]) -> list[str]:
        free = asyncio.Semaphore(AT_ONCE)

        async def note(spec: v1.GenerationSpec) -> str:
            async with free:
                return await self._read(work, spec)

        tasks = [asyncio.create_task(note(spec)) for spec in specs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, work: Work, spec: v1.GenerationSpec) -> str:
        """Return what a reader writes. Raises OutputInvalid if that is nothing."""
        assert work.plan.readers is not None
        side = replace(work, spec=spec, policy=binding(work.policy), plan=work.plan.readers)
        response = await self._reader.generate(side)
        text = response.choices[0].content.text.strip()
        if not text:
            raise OutputInvalid(f"{response.started.target} was to condense the prompt and wrote nothing")
        usage, tokens = response.usage, spec.sampling.max_tokens
        told = usage.HasField("completion_tokens")
        took = usage.completion_tokens - usage.reasoning_tokens if told else estimated(len(text.encode()))
        return text if took <= tokens else text[: len(text) * tokens // took]

    def __repr__(self) -> str:
        return f"<Condenser before {self._strategy!r}>"


def _tell(work: Work, usage: v1.Usage) -> None:
    assert work.plan.fit is not None
    usage.context.CopyFrom(tell_fit(work.plan.fit))
