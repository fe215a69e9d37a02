"""One answer, judged while it comes: the other end of the validator's ValidateStream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc

from spillway import v1
from spillway.generation import Folder, tokens_in
from spillway.logs import get_logger

from .facts import Validation
from .release import Release
from .work import Work

log = get_logger(__name__)


def follows(work: Work, least_tokens: int | None) -> bool:
    """Whether the answer is judged while it comes: of `least_tokens` or more, or with records.

    Something may be known before its end of JSON, and of what judgement policies ask for.
    """
    sampling = work.spec.sampling
    json = work.spec.constraint.WhichOneof("constraint") in ("json_schema", "json_object")
    return (
        least_tokens is not None
        and work.plan.validation is not Validation.OFF
        and (json or bool(work.plan.judgements))
        and (work.release is not None or not sampling.HasField("max_tokens") or sampling.max_tokens >= least_tokens)
    )


class Following:
    """Hands an answer's deltas to the validator, and hears its verdicts. What it accepts of records goes to `release`.

    Where the validator goes away, or takes longer than `timeout_s` over anything, it falls silent: the whole answer is
    then judged as any other. So is one that its target began anew, as the validator cannot forget what it has heard.
    """

    def __init__(
        self,
        rpc: grpc.aio.StreamStreamCall[Any, Any],
        constraint: v1.OutputConstraint,
        timeout_s: float,
        policies: Sequence[str] = (),
        release: Release | None = None,
    ) -> None:
        self.usage = v1.Usage()
        """What has come so far, where the answer does not come to its end."""
        self.stopped = False
        """The answer was doomed, and not waited for."""
        self._rpc = rpc
        self._timeout_s = timeout_s
        self._held_to = v1.ValidateStreamRequest(constraint=constraint, policies=policies, records=release is not None)
        self._release = release
        self._begun = False
        self._silent = False
        self._verdicts: dict[int, v1.Verdict] = {}
        self._told = asyncio.Event()
        self._early: v1.Verdict | None = None

    async def whole(
        self, events: AsyncIterator[v1.GenerationEvent]
    ) -> tuple[v1.GenerateResponse, list[v1.Verdict] | None]:
        """Return the answer that `events` tell, and one verdict per choice; None where the validator went away.

        An answer that is doomed is returned as far as it has come.
        """
        folder = Folder()
        async for event in events:
            folder.add(event)
            self._count(event)
            if self._release is not None:
                self._release.hear(event)
            if event.route_changed.restarted:
                self._silent, self._early = True, None
            if event.delta.text:
                await self._say(piece=v1.AnswerPiece(choice=event.delta.choice, text=event.delta.text))
            if self._early is not None:
                response = folder.response
                log.info("answer.doomed", target=response.started.target, tokens=self.usage.completion_tokens)
                response.usage.CopyFrom(self.usage)
                self.stopped = True
                return response, [self._early] * len(response.choices)
            if self._release is not None:
                await self._release.room()
        response = folder.whole()
        return response, await self._ended(response.choices)

    async def _ended(self, choices: Sequence[v1.Choice]) -> list[v1.Verdict] | None:
        for index, choice in enumerate(choices):
            truncated = choice.finish.reason == v1.FINISH_REASON_LENGTH
            await self._say(end=v1.AnswerEnd(choice=index, truncated=truncated))
        try:
            async with asyncio.timeout(self._timeout_s):
                while len(self._verdicts) < len(choices) and not self._silent:
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            self._silent = True
        return None if self._silent else [self._verdicts[index] for index in range(len(choices))]

    def _count(self, event: v1.GenerationEvent) -> None:
        if event.HasField("delta"):
            self.usage.completion_tokens += tokens_in(event)
        elif event.HasField("started") and event.started.HasField("prompt_tokens"):
            self.usage.prompt_tokens = event.started.prompt_tokens
        elif event.HasField("usage"):
            self.usage.CopyFrom(event.usage)

    async def listen(self) -> None:
        """Hear verdicts until the validator ends the call."""
        try:
            async for response in self._rpc:
                if response.HasField("records"):
                    if self._release is not None and not self._silent:
                        self._release.accept(response.choice, response.records.end)
                    continue
                self._verdicts[response.choice] = response.verdict
                if response.early and not self._silent:
                    self._early = response.verdict
                self._told.set()
        except grpc.aio.AioRpcError:
            pass  # its error is told by the judgement of the whole answer
        finally:
            self._silent = True
            self._told.set()

    async def end(self) -> None:
        """Say that nothing more comes. Where the call is broken there is nobody to hear it."""
        with suppress(grpc.aio.InternalError):
            await self._rpc.done_writing()

    async def _say(self, **step: Any) -> None:
        if self._silent:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self._begun:
                    self._begun = True
                    await self._rpc.write(self._held_to)
                await self._rpc.write(v1.ValidateStreamRequest(**step))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            self._silent = True

    def __repr__(self) -> str:
        state = "early" if self._early is not None else "silent" if self._silent else "listening"
        return f"<Following {state}, {len(self._verdicts)} verdicts>"
