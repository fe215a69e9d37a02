"""The thread that loads the engine and stays."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.local_engine.keeper import Keeper
from spillway.settings import SettingsError


async def test_the_thread_that_loaded_stays_until_it_is_released() -> None:
    keeper = Keeper(lambda abandoned: threading.current_thread())
    thread = await keeper.open()
    assert thread.is_alive()
    keeper.release()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


async def test_what_loading_raises_is_raised() -> None:
    def load(abandoned: threading.Event) -> None:
        raise SettingsError("no such model")

    with pytest.raises(SettingsError, match="no such model"):
        await Keeper(load).open()


async def test_loading_is_told_when_nobody_waits_any_more() -> None:
    told = threading.Event()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load(abandoned: threading.Event) -> None:
        loop.call_soon_threadsafe(began.set)
        abandoned.wait(10)
        told.set()

    opening = asyncio.create_task(Keeper(load).open())
    await began.wait()
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert await asyncio.to_thread(told.wait, 5)
