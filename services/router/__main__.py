"""Run the router: `python -m services.router --config FILE`."""

from __future__ import annotations

from spillway.process import main

from .app import App, build
from .settings import RouterSettings
from .sums import scraped


def tell(app: App) -> dict[str, str]:
    """What a worker says of itself when it is ready."""
    return {"http": app.http.address if app.http is not None else "", "metrics": app.metrics}


if __name__ == "__main__":
    main("router", RouterSettings, build, tell=tell, beside=scraped)
