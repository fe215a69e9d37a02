"""`vllm serve` with the engine arguments that local_engine uses: what its HTTP server makes of the same engine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from services.local_engine import environment
from services.local_engine.settings import LocalEngineSettings


def flags(arguments: dict[str, Any]) -> list[str]:
    """Return AsyncEngineArgs as the command line's words."""
    told = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            told.append(flag)
        elif value is False:
            told.append(flag.replace("--enable-", "--no-enable-") if "--enable-" in flag else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            told += [flag, *map(str, value)]
        elif isinstance(value, dict):
            told += [flag, json.dumps(value)]
        elif value is not None:
            told += [flag, str(value)]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    host, _, port = parser.parse_args().address.rpartition(":")
    settings = LocalEngineSettings()
    environment.prepare(settings, os.environ)
    environment.compile_nothing(os.environ)
    from services.local_engine.vllm_arguments import engine_arguments

    arguments = engine_arguments(settings, cpu=True)
    del arguments["use_tqdm_on_load"], arguments["disable_log_stats"]
    model = arguments.pop("model")
    quiet = ["--disable-uvicorn-access-log", "--disable-log-stats"]
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", host, "--port", port]
    os.execv(sys.executable, [sys.executable, *command, *flags(arguments), *quiet])


if __name__ == "__main__":
    main()
