"""What the processes vLLM spawns owe to this one: they end with it, and leave a terminal's Ctrl-C to it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
ON_CPU = "SPILLWAY_ENGINE_ON_CPU"
"""Set in the environment of processes that compute on CPUs."""
_NAME = "services.local_engine.spawned"
_GC_THRESHOLDS = (10_000, 20, 20)
"""Those of the service: what vLLM imports are a million objects that stay, and Python's own look at them every 700."""


@contextlib.contextmanager
def standing_apart() -> Iterator[None]:
    """Make every process that multiprocessing spawns from this one, within the block, and theirs, stand apart.

    A spawned process imports the main module of the one that spawned it, before anything else. For the block, that is
    this module: vLLM offers no hook of its own that is early enough and reaches all of its processes.
    """
    main = sys.modules["__main__"]
    before = getattr(main, "__spec__", None)
    main.__spec__ = importlib.util.find_spec(_NAME)
    try:
        yield
    finally:
        main.__spec__ = before


def stand_apart() -> None:
    """Make this process end when the thread that spawned it does, and take it out of the terminal's group.

    By SIGKILL, because an engine whose service is gone has no one to answer, and it looks at polite signals only
    between two steps. Linux alone can do this; elsewhere the processes find their pipes closed.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(PermissionError):  # it leads a group already
        os.setsid()


if __name__ == "__mp_main__":
    stand_apart()
    gc.set_threshold(*_GC_THRESHOLDS)
    if os.environ.get(ON_CPU):
        from services.local_engine.vllm_generators import rewind_generators

        rewind_generators()
