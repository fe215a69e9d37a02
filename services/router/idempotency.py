"""Idempotency of Generate: the same request_id, body and tenant get the same answer, within a window.

It is made once: who repeats a request while it runs waits for it, and makes it anew if that one was cancelled or ran
out of a shorter deadline. A failure is told to those who wait and is not kept. Each router knows its own answers alone,
in memory.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import Cancelled, DeadlineExceeded, RequestIdInUse, RequestIdReused, SpillwayError
from spillway.rpc.call import Call

from .admission_settings import IdempotencySettings

Id = tuple[str, str]
"""Tenant and request_id."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was given. `until`: on the clock."""

    body: bytes
    answer: v1.GenerateResponse
    size: int
    until: float


class Idempotency:
    """Remembers requests by their ids."""

    def __init__(self, settings: IdempotencySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._kept: OrderedDict[Id, Kept] = OrderedDict()  # the oldest first
        self._bytes = 0
        self._under_way: dict[Id, tuple[bytes, asyncio.Future[v1.GenerateResponse]]] = {}
        self._streams: set[Id] = set()

    async def once(
        self,
        request: v1.GenerateRequest,
        call: Call,
        make: Callable[[v1.GenerateRequest, Call], Awaitable[v1.GenerateResponse]],
    ) -> v1.GenerateResponse:
        """Return the answer to `request`: kept, under way, or made now. Raises what `make` does.

        Raises RequestIdReused where the id had another body, RequestIdInUse where it is a stream's, and
        DeadlineExceeded where the deadline passes while another makes the answer.
        """
        id_ = (call.caller.tenant, request.spec.request_id)
        if id_ in self._streams:
            raise _in_use(id_, "a stream is under way under it")
        body = _digest(request)
        self._forget()
        while (running := self._under_way.get(id_)) is not None:
            _same(body, running[0], id_)
            try:
                async with asyncio.timeout(call.deadline.left()):
                    return await asyncio.shield(running[1])
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed while the same request was being answered") from None
            except Cancelled:
                continue
            except DeadlineExceeded:
                if call.deadline.passed:
                    raise
        kept = self._kept.get(id_)
        if kept is not None:
            _same(body, kept.body, id_)
            return kept.answer
        return await self._make(id_, body, request, call, make)

    @contextmanager
    def holding(self, request_id: str, call: Call) -> Iterator[None]:
        """Hold an id for the stream that the block is. Raises RequestIdInUse where it is another's."""
        id_ = (call.caller.tenant, request_id)
        self._forget()
        if id_ in self._streams:
            raise _in_use(id_, "a stream is under way under it")
        if id_ in self._under_way or id_ in self._kept:
            raise _in_use(id_, "it is the id of a Generate")
        self._streams.add(id_)
        try:
            yield
        finally:
            self._streams.discard(id_)

    async def _make(
        self,
        id_: Id,
        body: bytes,
        request: v1.GenerateRequest,
        call: Call,
        make: Callable[[v1.GenerateRequest, Call], Awaitable[v1.GenerateResponse]],
    ) -> v1.GenerateResponse:
        made: asyncio.Future[v1.GenerateResponse] = asyncio.get_running_loop().create_future()
        self._under_way[id_] = (body, made)
        ended: Exception = Cancelled("the request it was shared with was cancelled")
        try:
            answer = await make(request, call)
        except SpillwayError as error:
            ended = error
            raise
        else:
            made.set_result(answer)
            self._keep(id_, body, answer)
            return answer
        finally:
            del self._under_way[id_]
            if not made.done():
                made.set_exception(ended.with_traceback(None))
                made.exception()  # read, whether or not anybody waits

    def _keep(self, id_: Id, body: bytes, answer: v1.GenerateResponse) -> None:
        settings = self._settings
        size = answer.ByteSize() + len(id_[0]) + len(id_[1])
        self._kept[id_] = Kept(body, answer, size, self._clock() + settings.window_s)
        self._bytes += size
        while len(self._kept) > settings.max_entries or self._bytes > settings.max_bytes:
            self._drop()

    def _forget(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop()

    def _drop(self) -> None:
        self._bytes -= self._kept.popitem(last=False)[1].size

    def __repr__(self) -> str:
        running = len(self._under_way) + len(self._streams)
        return f"<Idempotency {running} under way {len(self._kept)} kept {self._bytes} bytes>"


def _digest(request: v1.GenerateRequest) -> bytes:
    return blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest()


def _same(body: bytes, other: bytes, id_: Id) -> None:
    if body != other:
        raise RequestIdReused("spec.request_id: it is the id of a request with another body", resource=id_[1])


def _in_use(id_: Id, why: str) -> RequestIdInUse:
    return RequestIdInUse(f"spec.request_id: {why}", resource=id_[1])
