"""A fake engine as a process: answers of N tokens, `max_tokens` of the request, at a set pace."""

from __future__ import annotations

import argparse
import asyncio

from spillway import logs, v1
from spillway.settings import LogSettings
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.server import serving


def answer(spec: v1.GenerationSpec) -> str:
    """As many words as the request's `extra.words` says, five by default."""
    return " ".join(["word"] * int(spec.extra.fields["words"].number_value or 5))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval-ms", type=float, default=0.0)
    logs.configure(LogSettings(level="error"), "engine")
    engine = FakeEngine(answer=answer, interval_s=parser.parse_args().interval_ms / 1000)
    async with serving(*services(engine)) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
