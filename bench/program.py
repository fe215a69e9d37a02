"""A program that asks for answers at set moments, each call on its own: a scheduler, or runs made by hand.

python -m bench.program HABIT. It reads `URL MODEL SEED SECONDS` on stdin, asks whatever speaks OpenAI's wire
format there, and answers with its calls as JSON. It knows nothing of Spillway but the header that names who answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from openai import APIError, AsyncOpenAI


@dataclass(frozen=True, slots=True)
class Asked:
    """A call. `waited_s` from when it was due to its first token; `target` and `failed` are empty where not told."""

    waited_s: float
    target: str = ""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Habit:
    """How a program asks. `tokens` is the length of an answer, `every_s` the time between two calls."""

    tokens: int
    every_s: float
    chance: bool
    """The time between two calls is a mean, and chance decides."""

    def moments(self, seed: int, seconds: float) -> Iterator[float]:
        """Yield when calls are due, in seconds from the start."""
        chance = random.Random(seed)
        due = chance.uniform(0, self.every_s)
        while due < seconds:
            yield due
            due += chance.expovariate(1 / self.every_s) if self.chance else self.every_s


HABITS: Mapping[str, Habit] = {
    "scheduler": Habit(tokens=35, every_s=6.0, chance=False),
    "manual": Habit(tokens=1, every_s=0.5, chance=True),
    "crowd": Habit(tokens=5, every_s=0.1, chance=True),
}


async def asked(client: AsyncOpenAI, model: str, due: float, tokens: int) -> Asked:
    """Wait until `due`, on the loop's clock, and ask once."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(due - loop.time())
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": "go on"}], max_tokens=tokens, stream=True
        )
        first, finish = None, None
        async with raw.parse() as chunks:
            async for chunk in chunks:
                for choice in chunk.choices:
                    if first is None and choice.delta.content:
                        first = loop.time()
                    finish = choice.finish_reason or finish
    except APIError as error:
        return Asked(loop.time() - due, failed=str(error.code or type(error).__name__))
    if first is None or finish is None:
        return Asked(loop.time() - due, failed="half an answer")
    return Asked(first - due, target=raw.headers.get("x-spillway-target", ""))


async def run(url: str, model: str, habit: Habit, seed: int, seconds: float) -> list[Asked]:
    """Make all calls of `seconds` seconds, late ones beside the next."""
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        await client.models.list()  # what the first call of a client costs is not waiting
        began = asyncio.get_running_loop().time()
        due = (began + moment for moment in habit.moments(seed, seconds))
        return await asyncio.gather(*(asked(client, model, moment, habit.tokens) for moment in due))


def main() -> None:
    habit = HABITS[sys.argv[1]]
    print("ready", flush=True)
    for line in sys.stdin:
        url, model, seed, seconds = line.split()
        found = asyncio.run(run(url, model, habit, int(seed), float(seconds)))
        print(json.dumps([asdict(call) for call in found]), flush=True)


if __name__ == "__main__":
    main()
