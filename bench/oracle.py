"""A simulated cloud that answers the questions of one split and task as they ought to be answered, and a store.

python -m bench.oracle SPLIT TASK COUNT SEED. Its first line is their addresses as JSON; it answers each line on stdin
with the requests that it has served since the last one.
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
from spillway.testing.openai_wire import prompt_text
from training.bundled_model.cases import cases


async def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with its stdin, and takes its store along
    split, task, count, seed = sys.argv[1:]
    known = {case.turns[-1].content: case.answer for case in cases(split, task, int(count), int(seed))}
    served = 0

    def answer(body: Mapping[str, Any]) -> str:
        nonlocal served
        served += 1
        return known[prompt_text(body)]

    async with embedded_valkey() as store, serving_openai(OpenAISimulator(answer=answer)) as cloud:
        print(json.dumps({"cloud": cloud, "store": store}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(served, flush=True)
            served = 0


if __name__ == "__main__":
    asyncio.run(main())
