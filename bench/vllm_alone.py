"""The ceiling: vLLM's AsyncLLM called in process, with the engine arguments that local_engine uses.

Reads lines `STREAMS TOKENS` on stdin and answers each with the seconds that many greedy streams took.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from bench.engine_rate import PROMPT
from services.local_engine import environment
from services.local_engine.settings import LocalEngineSettings
from spillway import logs
from spillway.settings import LogSettings


async def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that vLLM's own processes end with this one
    logs.configure(LogSettings(level="error"), "vllm_alone")
    settings = LocalEngineSettings()  # the defaults, as the service beside it
    environment.prepare(settings, os.environ)
    environment.compile_nothing(os.environ)
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    from services.local_engine.vllm_backend import engine_arguments

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(settings, cpu=True)))

    async def read(parameters: SamplingParams, name: str) -> None:
        async for _ in engine.generate({"prompt_token_ids": PROMPT}, parameters, name):
            pass

    try:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            count, tokens = map(int, line.split())
            parameters = SamplingParams(
                temperature=0.0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
            )

            began = time.perf_counter()
            await asyncio.gather(*(read(parameters, f"{began}-{index}") for index in range(count)))
            print(time.perf_counter() - began, flush=True)
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
