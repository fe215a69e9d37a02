"""A local engine for tests of several: the one called `large` is the real one, all others are of no weight."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FAKE = Path(__file__).parent / "fake_local_engine.py"

if __name__ == "__main__":
    real = sys.argv[sys.argv.index("--name") + 1] == "large"
    program = ("-m", "services.local_engine") if real else (str(FAKE),)
    os.execv(sys.executable, (sys.executable, *program, *sys.argv[1:]))
