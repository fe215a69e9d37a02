"""A fake engine as a process: answers of N tokens, `max_tokens` of the request, at a set pace.

With --stepped all answers have their tokens at the same moments, as those of an engine that computes in batches.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque

from spillway import logs, v1
from spillway.settings import LogSettings
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.server import serving
from spillway.testing.steps import Steps


def answer(spec: v1.GenerationSpec) -> str:
    """As many words as the request's `extra.words` says, five by default."""
    return " ".join(["word"] * int(spec.extra.fields["words"].number_value or 5))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval-ms", type=float, default=0.0)
    parser.add_argument("--stepped", action="store_true")
    arguments = parser.parse_args()
    logs.configure(LogSettings(level="error"), "engine")
    interval_s = arguments.interval_ms / 1000
    engine = FakeEngine(
        answer=answer,
        interval_s=interval_s,
        steps=Steps(interval_s) if arguments.stepped else None,
        seen=deque(maxlen=1),  # not each of a hundred thousand
    )
    async with serving(*services(engine)) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
