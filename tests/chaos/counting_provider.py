"""A provider that counts for itself, as a process: nobody else's work delays what it sees.

python -m tests.chaos.counting_provider PORT WINDOW LATENCY: seconds of the caller's deadline, seconds an answer takes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spillway.leash import end_with_parent
from spillway.testing import openai_wire as wire
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai


@dataclass(slots=True)
class Counting(OpenAISimulator):
    """Answers as long as the prompt's first word says, in one piece, and writes down what came when."""

    deadline_s: float = 60.0
    came: list[tuple[float, float, str, int, int]] = field(default_factory=list)
    """When a call came, when it was sent as far as its deadline tells, its tenant, tokens of prompt and answer."""

    def application(self) -> web.Application:
        # Not super(): a dataclass with slots is another class than the one its methods were made in.
        application = OpenAISimulator.application(self)
        application.router.add_get("/v1/came", self.tell)
        return application

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response({"running": self.running, "came": self.came})

    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        now = time.monotonic()
        text = wire.prompt_text(body)
        length, tenant, started, *_ = text.split(" ", 3)
        asked = 3 + text.count(" ") + 1
        left_s = int(request.headers["x-spillway-deadline-ms"]) / 1000
        self.came.append((now, float(started) + self.deadline_s - left_s, tenant, asked, int(length)))
        await asyncio.sleep(self.first_s)
        usage = {"prompt_tokens": asked, "completion_tokens": int(length), "total_tokens": asked + int(length)}
        reply = wire.Reply(tokens=["word "] * int(length))
        return web.json_response(wire.completion(body, [reply], id="x", model="m", usage=usage))


async def serve(port: int, deadline_s: float, latency_s: float) -> None:
    """Serve until killed."""
    async with serving_openai(Counting(first_s=latency_s, deadline_s=deadline_s), port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
