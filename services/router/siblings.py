"""The other workers of this router: what an operator says to one is meant for all."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc.aio import AioRpcError

from spillway.logs import get_logger
from spillway.rpc import metadata
from spillway.rpc.options import channel_options
from spillway.v1.router_admin_pb2_grpc import RouterAdminServiceStub
from spillway.worker import ALONE, Worker

log = get_logger(__name__)

ASK_S: Final = 2.0
"""Longest wait for one that does not answer."""
THEIRS: Final = "unix:"
"""How the address of a caller begins that is a worker itself."""


class Siblings:
    """Reaches each at the socket that is its own."""

    def __init__(self, worker: Worker = ALONE, *, max_receive_bytes: int = 16 * 2**20) -> None:
        self._channels = [
            grpc.aio.insecure_channel(address, options=channel_options(max_receive_bytes=max_receive_bytes))
            for address in worker.siblings
        ]
        self._stubs = [RouterAdminServiceStub(channel) for channel in self._channels]

    async def ask(self, rpc: str, request: Message, context: Any) -> list[Any]:
        """Return what each of them answers to the `rpc` that came with `context`; nothing where one of them asks.

        One that does not answer is left out: it has died, and what begins in its place knows nothing yet.
        """
        if not self._stubs or str(context.peer()).startswith(THEIRS):
            return []
        key = tuple(each for each in context.invocation_metadata() or () if each[0] == metadata.AUTHORIZATION)
        asked = [getattr(stub, rpc)(request, timeout=ASK_S, metadata=key) for stub in self._stubs]
        found = []
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, AioRpcError):
                log.warning("sibling.silent", rpc=rpc, code=answer.code().name)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.append(answer)
        return found

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def __repr__(self) -> str:
        return f"<Siblings {len(self._channels)}>"
