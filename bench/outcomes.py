"""Outcomes of the bundled model on one local engine: what it answered, how sure it was, and whether that was right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml

from bench.load import DEADLINE_S
from bench.outcome_cases import Asked
from bench.processes import free_address, started
from spillway import v1
from spillway.v1 import inference_pb2_grpc

AT_ONCE = 32
MAX_TOKENS = 160
SAMPLES, WARMTH, EVERY = 2, 0.8, 4
"""Further answers, their temperature, and which questions have them: one in so many."""
TARGET = "bundled"
_ROLES = {"system": v1.ROLE_SYSTEM, "user": v1.ROLE_USER, "assistant": v1.ROLE_ASSISTANT}


@contextmanager
def engine(config: Path) -> Iterator[str]:
    """Run a local engine with the bundled model for the block; yield its address."""
    address = free_address()
    config.write_text(yaml.safe_dump({"local_engine": {"server": {"listen": address, "drain_s": 1}}}))
    with started("services.local_engine", "--config", str(config), address=address):
        yield address


def spec(asked: Asked, temperature: float) -> v1.GenerationSpec:
    """What the engine is asked, the probability of each chosen token included."""
    messages = [v1.Message(role=_ROLES[turn.role], parts=[v1.Part(text=turn.content)]) for turn in asked.turns]
    return v1.GenerationSpec(
        chat=v1.Chat(messages=messages),
        sampling=v1.Sampling(temperature=temperature, max_tokens=MAX_TOKENS),
        logprobs=v1.Logprobs(),
    )


async def outcomes(address: str, questions: Iterable[Asked]) -> list[dict[str, Any]]:
    """Return one outcome per question, as `spillway confidence fit` reads them; `kind` besides."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        places = asyncio.Semaphore(AT_ONCE)

        async def answer(asked: Asked, temperature: float) -> Any:
            async with places:
                request = v1.GenerateRequest(spec=spec(asked, temperature))
                return (await stub.Generate(request, timeout=DEADLINE_S)).choices[0].content

        async def outcome(index: int, asked: Asked) -> dict[str, Any]:
            wanted = SAMPLES * (index % EVERY == 0)
            first, *samples = await asyncio.gather(answer(asked, 0.0), *(answer(asked, WARMTH) for _ in range(wanted)))
            return {
                "target": TARGET,
                "task": asked.task,
                "prompt": [turn.content for turn in asked.turns],
                "answer": first.text,
                "logprobs": [[told.token, round(told.logprob, 5)] for told in first.logprobs],
                "right": asked.right(first.text),
                **({"samples": [sample.text for sample in samples]} if samples else {}),
                **({"schema": asked.schema} if asked.schema else {}),
                "group": asked.group,
                "kind": asked.kind,
            }

        return list(await asyncio.gather(*(outcome(index, one) for index, one in enumerate(questions))))
