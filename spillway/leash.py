"""A child process that ends with its parent, without code between fork and exec.

python -m spillway.leash PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "SPILLWAY_PARENT"
"""Environment variable with the pid of the parent to end with."""
_PR_SET_PDEATHSIG = 1


def leashed(environ: dict[str, str]) -> dict[str, str]:
    """Return `environ` for a child that is to end with this process."""
    return {**environ, PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """On Linux, get SIGTERM when the parent named by SPILLWAY_PARENT ends; elsewhere, or unnamed, do nothing."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(0)


if __name__ == "__main__":
    end_with_parent()
    os.execv(sys.argv[1], sys.argv[1:])
