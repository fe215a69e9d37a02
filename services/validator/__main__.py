"""`python -m services.validator [--config FILE]`"""

from __future__ import annotations

from services.validator.app import build
from services.validator.settings import ValidatorSettings
from spillway.process import main

if __name__ == "__main__":
    main("validator", ValidatorSettings, build)
