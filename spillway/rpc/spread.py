"""One address where several workers may listen: a channel of several connections, one to each worker.

The kernel gives a new connection to any worker, and a connection stays where it is. So the first one is asked which
worker it leads to and of how many; where there are several, more are opened and asked until each worker has one. A call
goes where the fewest calls of its method run, so that sessions, which are calls too, are spread by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import grpc
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spillway.rpc import metadata

ASK_S: Final = 2.0
"""Longest wait for an answer."""
LOOK_S: Final = 10.0
"""Time between two looks whether each worker has its connection still: one that was started again has none."""
ALONE_S: Final = 300.0
"""The same where there was one worker."""
TRIES: Final = 6
"""Connections opened at one look, for each worker that has none: of two workers one is missed once in 64 looks."""

MOST: Final = 256
"""Connections that a method is remembered for."""


class _Connection:
    __slots__ = ("channel", "running", "worker")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.running = 0
        self.worker = ""


class Spread(grpc.aio.Channel):
    """Made of the channels that `connect` makes, each of which must be a connection of its own."""

    def __init__(self, connect: Callable[[int], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._made = 0
        self._connections = [self._another()]
        self._leaving: list[_Connection] = []
        self._turn = 0
        self._looking: asyncio.Task[None] | None = None
        self._one_look = asyncio.Lock()
        self._streams: WeakKeyDictionary[Any, _Connection] = WeakKeyDictionary()
        """Calls that both sides write to."""

    @property
    def breadth(self) -> int:
        """Connections that calls go to."""
        return len(self._connections)

    def stays(self, call: Any) -> bool:
        """Whether `call`, which both sides write to, has a connection that calls go to."""
        return not self._leaving or self._streams.get(call) in self._connections

    def connections(self) -> list[_Connection]:
        """Those for the next call, that with the fewest calls first; of several alike each in turn."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking(), name="spread")
        connections = self._connections
        if len(connections) == 1:
            return connections
        self._turn = (self._turn + 1) % len(connections)
        return sorted(connections[self._turn :] + connections[: self._turn], key=lambda each: each.running)

    async def look(self) -> int:
        """See to it that each worker has a connection; return how many workers there are, 0 if that is not known."""
        async with self._one_look:  # another would close connections that this one asks
            return await self._look()

    async def _look(self) -> int:
        known: dict[str, _Connection] = {}
        for each in sorted(self._connections, key=lambda each: -each.running):  # of two to one worker the busier stays
            each.worker, count = await _ask(each.channel)
            if not count:
                return 0
            known.setdefault(each.worker, each)  # of one worker alone too, that of no name, where there were several
        self._leaving += (each for each in self._connections if each not in known.values())
        self._connections = list(known.values())
        for _ in range(TRIES * (count - len(known))):
            if len(self._connections) >= count:
                break
            each = self._another()
            self._leaving.append(each)  # unless it leads to somebody new
            each.worker, _ = await _ask(each.channel)
            if each.worker and each.worker not in known:
                known[each.worker] = each
                self._leaving.remove(each)
                self._connections = list(known.values())
        await self._let_go()
        return count

    async def _keep_looking(self) -> None:
        while True:
            count = await self.look()
            await asyncio.sleep(ALONE_S if count == 1 else LOOK_S)

    async def _let_go(self) -> None:
        """Close those that nobody uses any more."""
        idle = [each for each in self._leaving if not each.running]
        self._leaving = [each for each in self._leaving if each.running]
        for each in idle:
            await each.channel.close()

    def _another(self) -> _Connection:
        self._made += 1
        return _Connection(self._connect(self._made))

    def unary_unary(self, *method: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.unary_unary(*method, **options))

    def unary_stream(self, *method: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.unary_stream(*method, **options))

    def stream_unary(self, *method: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.stream_unary(*method, **options))

    def stream_stream(self, *method: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.stream_stream(*method, **options), self._streams)

    async def close(self, grace: float | None = None) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        await asyncio.gather(*(each.channel.close(grace) for each in (*self._connections, *self._leaving)))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._connections[0].channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._connections[0].channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._connections[0].channel.channel_ready()

    async def __aenter__(self) -> Spread:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Spread {' '.join(f'{each.worker}:{each.running}' for each in self._connections)}>"


class _Way:
    """A method at one connection, and its calls there."""

    __slots__ = ("call", "connection", "running")

    def __init__(self, call: Callable[..., Any], connection: _Connection) -> None:
        self.call = call
        self.connection = connection
        self.running = 0

    def began(self) -> None:
        self.running += 1
        self.connection.running += 1

    def ended(self, _: object) -> None:
        self.running -= 1
        self.connection.running -= 1


class _Method:
    """A method of the service, called where the fewest calls of it run, and of others."""

    __slots__ = ("_made", "_make", "_spread", "_ways")

    def __init__(
        self,
        spread: Spread,
        make: Callable[[grpc.aio.Channel], Any],
        made: MutableMapping[Any, _Connection] | None = None,
    ) -> None:
        """`made` is told of every call."""
        self._spread = spread
        self._made = made
        self._make = make
        self._ways: dict[_Connection, _Way] = {}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        way = min(map(self._way, self._spread.connections()), key=lambda each: each.running)
        call = way.call(*arguments, **options)
        way.began()
        call.add_done_callback(way.ended)
        if self._made is not None:
            self._made[call] = way.connection
        return call

    def _way(self, connection: _Connection) -> _Way:
        way = self._ways.get(connection)
        if way is None:
            if len(self._ways) >= MOST:
                self._ways.clear()  # of connections that are gone
            way = self._ways[connection] = _Way(self._make(connection.channel), connection)
        return way


async def _ask(channel: grpc.aio.Channel) -> tuple[str, int]:
    """Return the worker that `channel` leads to and how many there are: none and 1 where it has no name, 0 unknown."""
    try:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=ASK_S)
        told = {key: str(value) for key, value in await check.trailing_metadata() or ()}
        await check
    except AioRpcError as error:
        return "", int(error.code() is grpc.StatusCode.UNIMPLEMENTED)
    worker, _, count = told.get(metadata.WORKER, "").rpartition("/")
    return (worker, int(count)) if worker and count.isdecimal() else ("", 1)
