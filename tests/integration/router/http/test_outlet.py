"""Where streams leave: few writes, in order, and none for a reader that reads nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send

from services.router.http.completion_answer import CompletionChunks
from services.router.http.connection import EXTENSION
from services.router.http.edge import _Lane
from services.router.http.listener import Listener
from services.router.http.outlet import MAX_WAITING, Outlet, Turn
from spillway import v1
from spillway.testing.waiting import eventually
from tests.integration.router.http.rig import LISTEN

Say = Callable[[Outlet], Awaitable[None]]


@asynccontextmanager
async def read(say: Say) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The body, still in chunks, of a response that `say` makes, and the caller's way to leave."""
    turn = Turn()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await say(Outlet(send, scope["extensions"][EXTENSION]["connection"](), turn))

    listener = Listener(LISTEN, application, stall_s=30.0)
    await listener.start()
    host, _, port = listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        yield reader, writer
    finally:
        writer.close()
        await listener.stop(1.0)


async def chunk(reader: asyncio.StreamReader) -> str:
    """The next chunk of a body; empty for the last."""
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2].decode()


async def test_what_is_put_in_one_turn_of_the_loop_is_one_chunk() -> None:
    async def say(outlet: Outlet) -> None:
        for piece in ("one ", "two ", "thr\u00e9e"):
            outlet.put(piece)
        await asyncio.sleep(0)
        outlet.put("four")
        await asyncio.sleep(0)
        await outlet.end()

    async with read(say) as (reader, _):
        assert [await chunk(reader) for _ in range(3)] == ["one two thr\u00e9e", "four", ""]


async def test_what_is_put_leaves_before_what_is_written_after_it_and_before_the_end() -> None:
    async def say(outlet: Outlet) -> None:
        outlet.put("one ")
        await outlet.write("two")
        outlet.put("three")
        await outlet.end()

    async with read(say) as (reader, _):
        assert [await chunk(reader) for _ in range(3)] == ["one two", "three", ""]


async def test_an_outlet_is_closed_while_enough_waits_in_a_turn() -> None:
    async def say(outlet: Outlet) -> None:
        while outlet.open:
            outlet.put("x")
        await asyncio.sleep(0)
        assert outlet.open
        await outlet.end()

    async with read(say) as (reader, _):
        assert [await chunk(reader), await chunk(reader)] == ["x" * MAX_WAITING, ""]


async def test_an_outlet_is_closed_while_its_reader_takes_nothing_and_no_byte_is_lost() -> None:
    piece, count = "x" * 100_000, 0
    closed = asyncio.Event()

    async def say(outlet: Outlet) -> None:
        nonlocal count
        while outlet.open:
            outlet.put(piece)
            count += 1
            await asyncio.sleep(0)
        closed.set()
        await outlet.write("the end")
        assert outlet.open
        await outlet.end()

    async with read(say) as (reader, _):
        await closed.wait()
        assert [await chunk(reader) for _ in range(count)] == [piece] * count
        assert [await chunk(reader), await chunk(reader)] == ["the end", ""]


async def test_a_delta_that_cannot_be_read_does_not_go_by() -> None:
    chunks = CompletionChunks("r", 1, include_usage=False)
    chunks.begin(v1.Started(model="m"))
    delta = v1.GenerationEvent(delta=v1.Delta(text="one", tokens=1)).SerializeToString()

    async def say(outlet: Outlet) -> None:
        lane = _Lane(outlet, chunks)
        lane.open = True
        assert not lane.take(delta[:-1], 1)
        assert lane.take(delta, 1)
        await outlet.end()

    async with read(say) as (reader, _):
        told = await chunk(reader)
        assert json.loads(told.removeprefix("data: "))["choices"][0]["text"] == "one"


async def test_nothing_is_sent_to_a_caller_that_has_left() -> None:
    left, told = asyncio.Event(), asyncio.Event()

    async def say(outlet: Outlet) -> None:
        outlet.put("one")
        await left.wait()
        await eventually(lambda: outlet._connection.transport.is_closing())
        outlet.put("two")
        await asyncio.sleep(0)
        await outlet.end()
        told.set()

    async with read(say) as (reader, writer):
        assert await chunk(reader) == "one"
        writer.transport.abort()
        left.set()
        await told.wait()
