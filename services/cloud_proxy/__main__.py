"""python -m services.cloud_proxy --config FILE"""

from __future__ import annotations

from services.cloud_proxy.app import build
from services.cloud_proxy.settings import CloudProxySettings
from spillway.process import main

if __name__ == "__main__":
    main("cloud_proxy", CloudProxySettings, build)
