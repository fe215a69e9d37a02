"""Run the router: `python -m services.router --config FILE`."""

from __future__ import annotations

from spillway.process import main

from .app import build
from .settings import RouterSettings

if __name__ == "__main__":
    main("router", RouterSettings, build)
