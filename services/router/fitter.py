"""The fitter: a plan for a prompt that fits no target, under a context policy that makes it fit. Nothing is dispatched.

Sizes are counted by a local target where one tells, so that what is planned is what will be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from spillway import v1
from spillway.generation import prompt_bytes

from .breaker import Standing
from .condensation import READ, SUMMARIZE, condensed, sketch, transcript
from .context import CONDENSING, MARK_TOKENS, Sketch, chunked, room, tightened
from .facts import TEMPLATE_TOKENS, ContextName, Facts, StrategyName, Validation
from .plan import Fit, Plan
from .policy import HEALTHY, Policy
from .quotas import Quota
from .target import Target

Count = Callable[[v1.GenerationSpec], Awaitable[int | None]]
"""Tokens of a prompt, None where nothing tells."""

TRIES = 8
LEAST_CHUNK_TOKENS = 32
MAX_HELPED_BYTES = 2**20
"""Of a longer prompt that is refused nobody looks for what would help: that would be more work than the refusal."""
CUTTING = frozenset({ContextName.PASSAGES, ContextName.MAP_REDUCE})
"""Context policies that take a text apart for the target that answers."""
_INSTRUCTION_BYTES = max(len(SUMMARIZE), len(READ)) + 64


@dataclass(frozen=True, slots=True)
class Fitter:
    """What one decision was made of."""

    rules: Policy
    targets: Sequence[Target]
    standings: Mapping[str, Standing]
    draw: float
    count: Count
    quotas: Mapping[str, Quota]
    now: float

    async def fitted(self, spec: v1.GenerationSpec, refused: Plan) -> Plan:
        """Return a plan in the place of `refused`, which took nothing, with what is done to the prompt.

        Where that makes nothing fit, or the context was not what failed, `refused` with what would help; where it only
        has to wait for a breaker, a plan that took nothing and says until when.
        """
        facts = refused.facts
        small = {out.target.name for out in refused.left_out if out.left_out_by == "context"}
        if not small:
            return refused
        on_site = [target for target in self.targets if target.local]
        if refused.context in CUTTING and self.rules.redacts(facts).kinds and len(on_site) < len(self.targets):
            # Half of something sensitive is not found any more, so what is cut is not redacted.
            return await replace(self, targets=on_site).fitted(spec, refused)
        if refused.context is ContextName.REFUSE and self._decide(replace(facts, context=ContextName.LARGER)).taken:
            return replace(refused, would_help=(ContextName.LARGER,))
        if_short = self._decide(facts.counted(1))
        if if_short.opens_in_s is not None:  # by policy nothing may answer now, so the same is asked of later
            later = await replace(self, standings=HEALTHY).fitted(spec, refused)
            return replace(if_short, facts=facts) if later.taken else later
        windows = [
            window
            for candidate in if_short.taken
            if candidate.target.name in small and (window := candidate.target.context_window) is not None
        ]
        found = sketch(spec, facts.prompt_tokens)
        if not windows or found is None:
            return refused
        # The largest loses least.
        limit = room(max(windows), facts.max_tokens) - (TEMPLATE_TOKENS if facts.counted_tokens is None else 0)
        if refused.context in CONDENSING:
            plan = await self._condensing(refused, spec, found, limit)
            if plan is not None:
                return plan
        if prompt_bytes(spec) > MAX_HELPED_BYTES:
            return refused
        return replace(refused, would_help=await asyncio.to_thread(self._helpful, refused, spec, found, limit))

    async def _condensing(self, refused: Plan, spec: v1.GenerationSpec, found: Sketch, limit: int) -> Plan | None:
        facts, budget = refused.facts, limit
        for _ in range(TRIES):
            # A long text is much to read; meanwhile others are served.
            made = await asyncio.to_thread(self._fit, refused.context, facts, spec, found, budget)
            if made is None:
                return None
            fit, readers = made
            fit = replace(fit, tokens_before=facts.prompt_tokens)
            counted = None
            if facts.counted_tokens is not None:
                counted = await self.count(await asyncio.to_thread(condensed, spec, fit))
            if counted is not None:
                fit = replace(fit, tokens_after=counted + fit.reserved + MARK_TOKENS * len(fit.chunks))
            if fit.tokens_after <= limit:
                plan = self._decide(facts.counted(fit.tokens_after))
                how = f"context {fit.policy.name.lower()}, {fit.tokens_before} to {fit.tokens_after} tokens"
                return replace(plan, fit=fit, readers=readers, reason=f"{how}; {plan.reason}") if plan.taken else None
            budget = tightened(budget, fit.tokens_after, limit)
        return None

    def _helpful(self, refused: Plan, spec: v1.GenerationSpec, found: Sketch, limit: int) -> tuple[ContextName, ...]:
        others = (name for name in CONDENSING if name is not refused.context)
        return tuple(name for name in others if self._fit(name, refused.facts, spec, found, limit) is not None)

    def _fit(
        self, name: ContextName, facts: Facts, spec: v1.GenerationSpec, found: Sketch, budget: int
    ) -> tuple[Fit, Plan | None] | None:
        """Return how `name` makes the prompt fit `budget`, and who reads what has to be read for it."""
        limits, readers = self.rules.context_limits, None
        if name in (ContextName.SUMMARIZE, ContextName.MAP_REDUCE):
            beside = found.weight(_INSTRUCTION_BYTES) + TEMPLATE_TOKENS + 2 * limits.summary_tokens
            if name is ContextName.MAP_REDUCE:
                beside += sum(piece.tokens for piece in found.pieces if piece.role == "system")
                beside += found.weight(len(found.document.question.encode())) if found.document is not None else 0
            side = replace(
                facts.counted(1),
                # Who summarizes for the model that was asked for is the policy's business; who answers for it is not.
                model="" if name is ContextName.SUMMARIZE else facts.model,
                task="summarize" if name is ContextName.SUMMARIZE else facts.task,
                needs=frozenset(),
                json=False,
                constrained=False,
                chat=True,
                max_tokens=limits.summary_tokens,
                validation=Validation.OFF,
                aside=True,
                strategy=StrategyName.DIRECT,
                context=ContextName.LARGER,
            )
            locally = name is ContextName.SUMMARIZE
            windows = [out.target.context_window for out in self._decide(side, locally=locally).taken]
            largest = max((window for window in windows if window is not None), default=None)
            chunk = limits.chunk_tokens
            if largest is not None and None not in windows:
                chunk = min(chunk, largest - beside)
            if chunk < LEAST_CHUNK_TOKENS:
                return None
            limits = replace(limits, chunk_tokens=chunk)
            readers = self._decide(side.counted(chunk + beside - limits.summary_tokens), locally=locally)
            if not readers.taken:
                return None
        fit = CONDENSING[name](found, budget, limits)
        if fit is not None and fit.summarized:
            chunks = tuple(chunked(transcript(spec, fit.summarized), found, limits.chunk_tokens))
            fit = replace(fit, chunks=chunks) if len(chunks) <= limits.max_chunks else None
        return (fit, readers) if fit is not None else None

    def _decide(self, facts: Facts, *, locally: bool = False) -> Plan:
        if not locally:
            return self.rules.decide(facts, self.targets, self.standings, self.draw, quotas=self.quotas, now=self.now)
        on_site = [target for target in self.targets if target.local]
        return replace(self.rules, order=()).decide(facts, on_site, self.standings, self.draw)

    def __repr__(self) -> str:
        return f"<Fitter {self.rules.name} {len(self.targets)} targets>"
