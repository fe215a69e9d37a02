"""How deltas are merged on their way: by pulling less often from a source that merges what has piled up.

A message through gRPC costs tens of microseconds whatever is in it. A source that hands over all it has when asked (the
engine's output collector, the bytes of an HTTP read) needs no buffer of ours: a pause between two pulls is the merging
window, and a busy process merges more by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from math import floor
from typing import TypeVar

from spillway import v1

Item = TypeVar("Item")


def window_s(coalescing: v1.Coalescing, default_s: float) -> float:
    """The merging window in seconds: the caller's, else the server's."""
    return coalescing.window_ms / 1000 if coalescing.HasField("window_ms") else default_s


def window_end(now: float, window: float) -> float:
    """Return when a window of so many seconds that begins at `now` ends: the streams of a process share the moments.

    So what they have then goes in one frame of a session. The moments are a window apart. It ends with the next one,
    after its whole length if it began with one; a thousandth before one counts as with it, as timers are not exact.
    """
    return floor(now / window + 1.001) * window


async def pulled(source: AsyncIterator[Item], window: float) -> AsyncGenerator[Item, None]:
    """Yield what `source` has, once in a `window` of seconds at most after the first item, which is never held.

    Closing this closes `source`.
    """
    clock = asyncio.get_running_loop().time
    try:
        async for item in source:
            if window <= 0:
                yield item
                continue
            due = window_end(clock(), window)
            yield item
            left = due - clock()
            if left > 0:
                await asyncio.sleep(left)
    finally:
        if (close := getattr(source, "aclose", None)) is not None:
            await close()
