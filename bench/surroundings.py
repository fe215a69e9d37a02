"""What is not Spillway's in the bench of collisions: a runtime that takes one call at once and answers 404
to a second one, a simulated cloud, and a store.

Its first line is their addresses as JSON. It answers each line on stdin with the calls that met another in the runtime
since the last one.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

from spillway.store.embedded import embedded_valkey
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.runtime_simulator import RuntimeSimulator, serving_runtime

TOKEN_S, CLOUD_FIRST_S = 0.02, 0.3


def endless(body: Mapping[str, Any]) -> str:
    """More words than anybody asks for: `max_tokens` of the request says how long the runtime is busy with it."""
    return "word " * 1000


async def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with its stdin, and takes its store along
    runtime = RuntimeSimulator(answer=endless, interval_s=TOKEN_S, slots=1)
    cloud = OpenAISimulator(answer=endless, first_s=CLOUD_FIRST_S)
    async with embedded_valkey() as store, serving_runtime(runtime) as local, serving_openai(cloud) as remote:
        print(json.dumps({"runtime": local, "cloud": remote, "store": store}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(runtime.collisions, flush=True)
            runtime.collisions = 0


if __name__ == "__main__":
    asyncio.run(main())
