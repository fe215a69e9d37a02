"""python -m services.local_engine [--config FILE]"""

from __future__ import annotations

from services.local_engine.app import build
from services.local_engine.settings import LocalEngineSettings
from spillway.process import main

if __name__ == "__main__":
    main("local_engine", LocalEngineSettings, build)
