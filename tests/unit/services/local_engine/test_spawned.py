"""What a process that vLLM spawns is like."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from services.local_engine.spawned import standing_apart
from spillway.process import GC_THRESHOLDS


def test_a_process_spawned_apart_leads_its_own_group_and_collects_as_seldom_as_a_service_does() -> None:
    with standing_apart(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(os.getsid, 0).result() == pool.submit(os.getpid).result()
        assert pool.submit(gc.get_threshold).result() == GC_THRESHOLDS
