from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from services.local_engine.claims import Claims
from services.local_engine.lease import Hold, LeaseLost
from services.local_engine.lease_settings import LeaseSettings
from services.local_engine.line import Ticket
from services.local_engine.tenure import Tenure
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.store.redis import Store

SETTINGS = LeaseSettings(name="r", ttl_s=1.0, renew_s=0.05, cancel_s=0.5)
TICKET = Ticket("token", "r1", False, 0.0)


class Broken(Claims):
    """Crashes at renewal."""

    async def renew(self, ticket: Ticket, tenure: Tenure, held_s: float) -> float:
        raise ZeroDivisionError("a defect")


async def test_a_call_whose_renewal_crashes_is_cancelled() -> None:
    store = Store(StoreSettings(url="redis://127.0.0.1:9/0"))
    hold = Hold(Broken(store, SETTINGS, "r", "o"), TICKET, Tenure(SETTINGS, 1, time.monotonic()), time.monotonic)
    with capture_logs() as logged, pytest.raises(LeaseLost, match="crashed"):
        async with hold:
            await asyncio.Event().wait()
    assert [entry["event"] for entry in logged] == ["lease.crashed"]
    await store.close()


async def test_a_call_that_is_cancelled_by_its_caller_is_not_taken_for_one_that_lost_its_lease() -> None:
    store = Store(StoreSettings(url="redis://127.0.0.1:9/0"))
    inside = asyncio.Event()

    async def call() -> None:
        tenure = Tenure(SETTINGS.model_copy(update={"ttl_s": 60.0, "renew_s": 20.0}), 1, time.monotonic())
        async with Hold(Claims(store, SETTINGS, "r", "o"), TICKET, tenure, time.monotonic):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()


async def test_what_the_store_does_not_know_under_this_fencing_token_is_not_dispatched() -> None:
    async with embedded_valkey() as url:
        store = Store(StoreSettings(url=url, timeout_s=5.0))
        claims = Claims(store, SETTINGS, "r", "o")
        fencing = 0
        while not fencing:  # a store that has just begun grants nothing yet
            fencing, again_s, _ = await claims.take(TICKET, waited_s=0.0, waiting=1)
            await asyncio.sleep(0 if fencing else again_s)
        for told, held in ((fencing, True), (fencing - 1, False)):
            hold = Hold(claims, TICKET, Tenure(SETTINGS, told, time.monotonic()), time.monotonic)
            if held:
                await hold.check()
            else:
                with pytest.raises(LeaseLost, match="gone"):
                    await hold.check()
        assert (await claims.take(TICKET, waited_s=0.0, waiting=1))[0] == fencing  # asked again, it is the same hold
        claims.free(TICKET)
        await claims.freed()
        await store.close()
