"""The way of a client's generations: each in a call of its own, or together in a session where several run at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, Self

from grpc.aio import AioRpcError

from spillway import v1
from spillway.errors import SpillwayError
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote, cancelling, closed, meant
from spillway.rpc.status import from_rpc_error
from spillway.session.client import Session
from spillway.session.link import SessionRefused, SessionUnsupported
from spillway.v1.inference_pb2_grpc import InferenceServiceStub

log = get_logger(__name__)

WINDOW: Final = 1024
"""Events of one generation that may wait for a reader who is not there: about what gRPC holds of a stream."""
GENERATE: Final = "spillway.v1.InferenceService/Generate"
STREAM: Final = "spillway.v1.InferenceService/StreamGenerate"


class Transport:
    """Asks `remote`: in a session while other generations are under way, or with `together` always.

    What the session does not take goes in a call of its own; so does all where the other side serves no sessions.
    """

    def __init__(self, remote: Remote, *, together: bool = False) -> None:
        self._remote = remote
        self._stub = InferenceServiceStub(remote.channel)
        self._session: Session | None = Session(remote, window=WINDOW)
        self._together = together
        self._under_way = 0

    @asynccontextmanager
    async def stream(self, request: v1.StreamGenerateRequest, call: Call) -> AsyncIterator[Responses]:
        """Open a stream under `call`; leaving the block ends it on the other side too."""
        async with AsyncExitStack() as stack:

            async def alone() -> AsyncIterator[Any]:
                rpc = self._remote.stream(self._stub.StreamGenerate, request, call, span_name=STREAM)
                return aiter(await stack.enter_async_context(rpc))

            async def instead(error: Exception) -> AsyncIterator[Any]:
                if not self._to_go_alone(error):
                    raise error
                return await alone()

            session = self._session_for(request)
            stack.enter_context(self._running())
            if session is None:
                yield Responses(await alone(), call, self._remote.address)
                return
            generation = await stack.enter_async_context(session.stream(request, call, span_name=STREAM))
            yield Responses(generation, call, self._remote.address, instead)

    async def generate(self, request: v1.GenerateRequest, call: Call) -> v1.GenerateResponse:
        """Return the whole answer to `request`."""
        session = self._session_for(request)
        with self._running():
            if session is not None:
                try:
                    return await session.generate(request, call, span_name=GENERATE)
                except (SessionUnsupported, SpillwayError) as error:
                    if not self._to_go_alone(error):
                        raise
            return await self._remote.unary(self._stub.Generate, request, call, span_name=GENERATE)

    def _session_for(self, request: v1.StreamGenerateRequest | v1.GenerateRequest) -> Session | None:
        """The session that `request` goes in, if any."""
        wanted = self._together or self._under_way
        return self._session if wanted and self._session is not None and self._session.takes(request) else None

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _to_go_alone(self, error: Exception) -> bool:
        """Whether `error` says that the session did not carry what began in it."""
        if isinstance(error, SessionUnsupported):
            if self._session is not None:
                log.info("client.without_sessions", address=self._remote.address)
                self._session = None
            return True
        return isinstance(error, SessionRefused)

    async def close(self) -> None:
        """End the session at once, and what runs in it."""
        if self._session is not None:
            await self._session.close()

    def __repr__(self) -> str:
        return f"<Transport {self._remote.address} {self._under_way} under way, {self._session!r}>"


class Responses:
    """The responses of one stream, whichever way they come. Raises SpillwayError alone.

    `instead` opens it anew, once, where a session did not carry it: it says so of the first error.
    """

    def __init__(
        self,
        source: AsyncIterator[Any],
        call: Call,
        address: str,
        instead: Callable[[Exception], Awaitable[AsyncIterator[Any]]] | None = None,
    ) -> None:
        self._source = source
        self._call = call
        self._address = address
        self._instead = instead

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        instead, self._instead = self._instead, None
        try:
            return await anext(self._source)
        except AioRpcError as error:
            raise meant(from_rpc_error(error), self._call, self._address) from None
        except asyncio.CancelledError:
            if cancelling():
                raise
            raise closed(self._address) from None
        except (SessionUnsupported, SpillwayError) as error:
            if instead is None:
                raise
            self._source = await instead(error)
            return await anext(self)
