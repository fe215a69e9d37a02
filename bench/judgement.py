"""What becomes of a small model's JSON: valid at once, mended, asked for again, sent to the cloud; and at what cost.

500 questions of the bundled model's JSON task, from templates that its training never showed, to a router before a vLLM
engine, a validator and a simulated cloud that is always right. The engine's constraint is off at the first attempt and
on at the second.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml

from bench.load import DEADLINE_S
from bench.processes import Measured, free_address, started
from bench.row import Step
from spillway import v1
from spillway.v1 import inference_pb2_grpc
from training.bundled_model.cases import Case, cases
from training.bundled_model.evaluate import LONGEST_ANSWER_TOKENS, answer_schema

COUNT, SEED, CALLERS = 500, 20, 16
SPLIT, TASK = "held_out_templates", "extract"
CLOUD = "simulated/simulated"
PRICE = {"input_usd_per_mtok": 0.15, "output_usd_per_mtok": 0.6}
"""What the simulated cloud charges: that of a small model of a large provider's."""
LONGEST_VALUE = 64
"""Characters. Held to a string without a bound, a small model that repeats itself goes on until it is full."""


@dataclass(frozen=True, slots=True)
class Way:
    """How it is asked."""

    temperature: float = 0.0
    repair: v1.Repair.ValueType = v1.REPAIR_ALLOWED
    bounded: bool = True


WAYS = {
    "temperature 0": Way(),
    "temperature 0.8": Way(temperature=0.8),
    "temperature 0, repair forbidden": Way(repair=v1.REPAIR_FORBIDDEN),
    "temperature 0, strings unbounded": Way(bounded=False),
}


@dataclass(frozen=True, slots=True)
class Rig:
    """A router with all that is behind it."""

    router: str
    oracle: Measured


@contextmanager
def rig() -> Iterator[Rig]:
    """The mesh, each part a process."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        asked = (SPLIT, TASK, str(COUNT), str(SEED))
        oracle = stack.enter_context(started("bench.oracle", *asked))
        addresses = {name: free_address() for name in ("local_engine", "validator", "cloud_proxy", "router")}
        config = Path(folder) / "spillway.yaml"
        config.write_text(yaml.safe_dump(_sections(addresses, **json.loads(oracle.address))))
        for name, address in addresses.items():
            stack.enter_context(started(f"services.{name}", "--config", str(config), address=address))
        yield Rig(addresses["router"], oracle)


def _sections(addresses: dict[str, str], cloud: str, store: str) -> dict[str, Any]:
    servers = {name: {"server": {"listen": address, "announce_s": 0}} for name, address in addresses.items()}
    local = {"name": "local", "kind": "local", "address": addresses["local_engine"], "context_window": 2048}
    there = {"name": CLOUD, "kind": "cloud", "address": addresses["cloud_proxy"], "model": CLOUD, "region": "eu"}
    capable = {"capabilities": ["text_input", "json_schema"]}
    provider = {"name": "simulated", "base_url": cloud, "region": "eu", "simulated": True}
    model = {"name": "simulated", "context_window": 4096, "price": PRICE}
    return {
        "local_engine": {**servers["local_engine"], "vllm": {"max_num_seqs": CALLERS}},
        "validator": servers["validator"],
        "cloud_proxy": {
            **servers["cloud_proxy"],
            "store": {"url": store, "timeout_s": 2},
            "providers": [{**provider, "models": [model]}],
        },
        "router": {
            **servers["router"],
            "validator": {"address": addresses["validator"]},
            "breakers": {"quality": {"least_samples": 10 * COUNT}},  # every question is put to the small model
            "targets": [
                {**local, **capable, "price": dict.fromkeys(PRICE, 0)},
                {**there, **capable, "context_window": 4096, "price": PRICE},
            ],
        },
    }


def schema(case: Case, *, bounded: bool) -> str:
    """What the answer has to be."""
    wanted = answer_schema(case)
    for told in wanted["properties"].values():
        if bounded and told["type"] == ["string", "null"]:
            told["anyOf"] = [{"type": "string", "maxLength": LONGEST_VALUE}, {"type": "null"}]
            del told["type"]
    return json.dumps(wanted)


def request(case: Case, way: Way) -> v1.GenerateRequest:
    """What a caller asks who wants JSON checked."""
    roles = {"system": v1.ROLE_SYSTEM, "user": v1.ROLE_USER, "assistant": v1.ROLE_ASSISTANT}
    said = [v1.Message(role=roles[turn.role], parts=[v1.Part(text=turn.content)]) for turn in case.turns]
    wanted = schema(case, bounded=way.bounded)
    return v1.GenerateRequest(
        spec=v1.GenerationSpec(
            chat=v1.Chat(messages=said),
            sampling=v1.Sampling(temperature=way.temperature, max_tokens=LONGEST_ANSWER_TOKENS),
            constraint=v1.OutputConstraint(json_schema=wanted, enforcement=v1.ENFORCEMENT_CHECKED, repair=way.repair),
        )
    )


async def answers(address: str, requests: Sequence[v1.GenerateRequest]) -> list[v1.Usage]:
    """Ask all, `CALLERS` at once; return what each took."""
    found: dict[int, v1.Usage] = {}
    waiting = iter(enumerate(requests))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def caller() -> None:
            for number, asked in waiting:
                found[number] = (await stub.Generate(asked, timeout=DEADLINE_S)).usage

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [found[number] for number in range(len(requests))]


def ended(usage: v1.Usage) -> str:
    """The step at which an answer was accepted."""
    local = [attempt for attempt in usage.attempts if attempt.target == "local"]
    if usage.attempts[-1].target == CLOUD:
        return "the cloud"
    if len(local) > 1:
        return "constrained retry"
    if usage.verdict.decision == v1.VERDICT_DECISION_ACCEPT:
        return "first answer as it is"
    mended = any(finding.kind == v1.FINDING_KIND_REPAIRED for finding in usage.verdict.findings)
    return "first answer, mended" if mended else "first answer, taken out"


STEPS = ("first answer as it is", "first answer, taken out", "first answer, mended", "constrained retry", "the cloud")


def steps(load: str, usages: Sequence[v1.Usage]) -> Iterator[Step]:
    """A line for each step: the attempts that it took, and the answers that are valid from it on."""
    valid = 0
    for step in STEPS:
        done = [usage for usage in usages if ended(usage) == step]
        valid += len(done)
        asked = True
        if step == "first answer as it is":
            made = [usage.attempts[0] for usage in usages]
        elif step == "constrained retry":
            made = [usage.attempts[1] for usage in usages if [a.target for a in usage.attempts[:2]] == ["local"] * 2]
        elif step == "the cloud":
            made = [attempt for usage in usages for attempt in usage.attempts if attempt.target == CLOUD]
        else:
            made, asked = [usage.attempts[0] for usage in done], False  # what came is read again
        yield Step(
            load,
            step,
            valid=valid,
            of=len(usages),
            attempts=len(made) if asked else 0,
            tokens=sum(attempt.prompt_tokens + attempt.completion_tokens for attempt in made) if asked else 0,
            duration_ms=tuple(attempt.duration_ms for attempt in made),
            cost_usd=sum(attempt.cost_nano_usd for attempt in made) / 1e9,
        )


def run() -> Iterator[Step | str]:
    """All ways, one after the other, in one mesh."""
    chosen = cases(SPLIT, TASK, COUNT, SEED)
    with rig() as found:
        for load, way in WAYS.items():
            usages = asyncio.run(answers(found.router, [request(case, way) for case in chosen]))
            yield from steps(load, usages)
            invalid = sum(ended(usage) == "the cloud" for usage in usages)
            lost = sum(attempt.outcome == v1.ATTEMPT_OUTCOME_FAILED for usage in usages for attempt in usage.attempts)
            yield (
                f"{load:36} {invalid} invalid before escalation, {found.oracle.ask('served')} requests to the cloud, "
                f"{lost} attempts that failed"
            )
