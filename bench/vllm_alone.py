"""The ceiling: vLLM's AsyncLLM called in process, with the engine arguments that local_engine uses.

Reads lines on stdin and answers each with seconds: `streams STREAMS TOKENS` with what that many greedy streams took,
`cancel` with the time from a cancel to the first token of a request that waited for the cancelled one's place, `cancels
SEED` with that from the last cancel of a crowd until there is nothing left to do and the next request is served.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time

from bench.load import ENDLESS, PROMPT, SETTLE_S, departures
from services.local_engine import environment
from services.local_engine.settings import LocalEngineSettings, VllmSettings
from spillway import logs
from spillway.settings import LogSettings


async def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that vLLM's own processes end with this one
    logs.configure(LogSettings(level="error"), "vllm_alone")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-num-seqs", type=int)
    seats = parser.parse_args().max_num_seqs
    settings = LocalEngineSettings(vllm=VllmSettings(max_num_seqs=seats))  # else the defaults, as the service beside it
    environment.prepare(settings, os.environ)
    environment.compile_nothing(os.environ)
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    from services.local_engine.vllm_arguments import engine_arguments

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(settings, cpu=True)))

    def wanted(tokens: int) -> SamplingParams:
        return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA)

    async def read(tokens: int, name: str, first: asyncio.Event | None = None) -> None:
        async for _ in engine.generate({"prompt_token_ids": PROMPT}, wanted(tokens), name):
            if first is not None:
                first.set()

    async def streams(count: int, tokens: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(read(tokens, f"{began}-{index}") for index in range(count)))
        return time.perf_counter() - began

    async def cancel() -> float:
        runs, comes = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(read(ENDLESS, f"{time.perf_counter()}-running", runs))
        await runs.wait()
        waiting = asyncio.create_task(read(1, f"{time.perf_counter()}-waiting", comes))
        await asyncio.sleep(SETTLE_S)
        began = time.perf_counter()
        running.cancel()
        await comes.wait()
        seconds = time.perf_counter() - began
        await asyncio.gather(running, waiting, return_exceptions=True)
        return seconds

    async def cancels(seed: int) -> float:
        async def leave(number: int, after_s: float) -> float:
            reading = asyncio.create_task(read(ENDLESS, f"{time.perf_counter()}-{number}"))
            await asyncio.sleep(after_s)
            left = time.perf_counter()
            reading.cancel()
            await asyncio.wait([reading])
            return left

        leaving = (leave(number, after_s) for number, after_s in enumerate(departures(seed)))
        began = max(await asyncio.gather(*leaving))
        assert not engine.get_num_unfinished_requests()
        await read(1, f"{time.perf_counter()}-next")
        return time.perf_counter() - began

    async def asked(command: str, *numbers: int) -> float:
        match command:
            case "streams":
                return await streams(*numbers)
            case "cancels":
                return await cancels(*numbers)
        return await cancel()

    try:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *numbers = line.split()
            print(await asked(command, *map(int, numbers)), flush=True)
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
