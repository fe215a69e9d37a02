"""What the processes vLLM spawns owe to this one: they end with it, and leave a terminal's Ctrl-C to it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
ON_CPU = "SPILLWAY_ENGINE_ON_CPU"
"""Set in the environment of processes that compute on CPUs."""
_NAME = "services.local_engine.spawned"


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


def rewind_generators() -> None:
    """Let the random generators of a CPU be taken back, as vLLM takes back what it drew for a part of a prompt.

    It does so by an offset that only the generators of GPUs have; without it a seed and a prompt that is computed in
    parts end the engine (vLLM 0.32). Ours go back to where they were seeded: nothing was drawn since that counts.
    """
    import torch

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> Generator:
            super().manual_seed(seed)
            self._seeded = self.get_state()
            return self

        def get_offset(self) -> int:
            return 0

        def set_offset(self, offset: int) -> Generator:
            self.set_state(self._seeded)
            return self

    torch.Generator = Generator  # type: ignore[misc]


if __name__ == "__mp_main__":
    stand_apart()
    if os.environ.get(ON_CPU):
        rewind_generators()
