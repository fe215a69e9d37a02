"""What judging costs: each instance of the real schemas against the bare library, and a call against an empty one.

The bare way is what its user would write: `json.loads` of the same text, `is_valid`, and where it is not, the message
and the paths of every error. Ours is the judgement whole: JSON found, read strictly, judged, a verdict with findings.
Schemas are compiled beforehand on both sides. The empty call has the server, the boundary and the span of a Validate
call, a message with nothing in it either way, and no handler to speak of; CPU is that of both sides, in one process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jsonschema_rs

from bench.load import percentile
from bench.row import Row
from services.validator.app import build
from services.validator.judgement import Judge
from services.validator.servicer import ValidatorServicer
from services.validator.settings import JudgementSettings, ValidatorSettings, WorkerSettings
from services.validator.verdict import Answer, Constraint
from spillway import v1
from spillway.settings import LogSettings, ServerSettings
from spillway.v1 import validator_pb2_grpc

REPEATS, CALLS, ROUNDS = 7, 300, 15
BAR_INSTANCE, BAR_CALL = 3.0, 1.3
DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere"), "schema", "real_schemas.jsonl")


class Empty(ValidatorServicer):
    """A validator whose list of policies is nothing, and takes nothing to make."""

    async def ListPolicies(self, request: v1.ListPoliciesRequest, context: Any) -> v1.ListPoliciesResponse:
        return v1.ListPoliciesResponse()


def real() -> Iterator[tuple[dict[str, Any], Constraint, str]]:
    """Schemas as values and as constraints, with one instance each time."""
    if not DATA.exists():
        return
    for row in map(json.loads, DATA.read_text().splitlines()):
        constraint = Constraint("json_schema", json.dumps(row["schema"]))
        for test in row["tests"]:
            yield row["schema"], constraint, json.dumps(test["data"])


def bare(validator: jsonschema_rs.Validator, text: str) -> list[tuple[str, list[str | int], list[str | int]]]:
    """What a user of the library would do."""
    value = json.loads(text)
    if validator.is_valid(value):
        return []
    return [(error.message, error.instance_path, error.schema_path) for error in validator.iter_errors(value)]


def least_us(*acts: Callable[[], object]) -> list[float]:
    """The least CPU of this thread that each of `acts` took, in microseconds; they take turns."""
    least = [float("inf")] * len(acts)
    for _ in range(REPEATS):
        for number, act in enumerate(acts):
            began = time.thread_time_ns()
            act()
            least[number] = min(least[number], (time.thread_time_ns() - began) / 1e3)
    return least


def instances() -> Iterator[Row]:
    """Judgement beside the bare library, over all instances."""
    judge = Judge(JudgementSettings(cached_schemas=2_000, cached_schema_bytes=2**28))
    compiled: dict[str, jsonschema_rs.Validator] = {}
    ours_us, bare_us = [], []
    for schema, constraint, text in real():
        if constraint.text not in compiled:
            compiled[constraint.text] = jsonschema_rs.validator_for(schema, validate_formats=True)
        ours, plain = least_us(
            lambda constraint=constraint, text=text: judge.judge(constraint, [Answer(text)]),  # type: ignore[misc]
            lambda constraint=constraint, text=text: bare(compiled[constraint.text], text),  # type: ignore[misc]
        )
        ours_us.append(ours)
        bare_us.append(plain)
    if not ours_us:
        return
    ratios = [ours / plain for ours, plain in zip(ours_us, bare_us, strict=True)]
    within = sum(ratio <= 1 + BAR_INSTANCE for ratio in ratios) / len(ratios)
    note = (
        f"{statistics.fmean(ours_us) / statistics.fmean(bare_us):.2f} times it in all; an instance p50 "
        f"{percentile(ratios, 0.5):.2f}, p95 {percentile(ratios, 0.95):.2f}, at most {max(ratios):.2f}; "
        f"{within:.1%} add no more than {BAR_INSTANCE:g} times"
    )
    yield Row(f"{len(ratios)} instances of real schemas", "bare library", statistics.fmean(bare_us), "answer", "")
    yield Row(f"{len(ratios)} instances of real schemas", "validator", statistics.fmean(ours_us), "answer", note)


@asynccontextmanager
async def serving() -> AsyncIterator[validator_pb2_grpc.ValidatorServiceStub]:
    """A validator in this process, and a stub of it over loopback."""
    settings = ValidatorSettings(
        server=ServerSettings(listen="127.0.0.1:0"),
        workers=WorkerSettings(processes=1, time_limit_s=60),
        logs=LogSettings(level="error"),
    )
    async with build(settings, serve=Empty) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        yield validator_pb2_grpc.ValidatorServiceStub(channel)


async def taken(acts: Mapping[str, Callable[[], Awaitable[object]]]) -> dict[str, tuple[float, float]]:
    """CPU of both sides and wall time per call, in microseconds, the median of rounds that take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for _ in range(ROUNDS):
        for name, act in acts.items():
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(CALLS):
                await act()
            spent = (time.process_time() - cpu, time.perf_counter() - wall)
            found[name].append((spent[0] / CALLS * 1e6, spent[1] / CALLS * 1e6))
    return {
        name: (statistics.median(cpu for cpu, _ in rounds), statistics.median(wall for _, wall in rounds))
        for name, rounds in found.items()
    }


async def calls() -> list[Row]:
    """Validate calls for schemas seen before, beside the empty call: a label, and real schemas by turns."""
    bounds = ValidatorSettings().workers
    judge = Judge(JudgementSettings(cached_schemas=2_000))
    chosen = [(Constraint("json_schema", '{"properties": {"label": {"enum": ["a", "b"]}}}'), '{"label": "a"}')]
    chosen += list({one[1].text: (one[1], one[2]) for one in real()}.values())[::20]
    at_once: list[v1.ValidateRequest] = []
    sent: list[v1.ValidateRequest] = []
    async with serving() as stub:
        for constraint, text in chosen:
            asked = v1.ValidateRequest(
                constraint=v1.OutputConstraint(json_schema=constraint.text), answers=[v1.Answer(text=text)]
            )
            await stub.Validate(asked, timeout=60)  # type: ignore[misc]
            judged = [Answer(text)]
            quick = judge.quick(constraint, judged, work=bounds.inline_work, size=bounds.inline_bytes) or (
                judge.quick(constraint, judged, work=bounds.inline_accept_work, size=bounds.inline_bytes)
                and judge.accepted(constraint, judged) is not None
            )
            (at_once if quick else sent).append(asked)
        nothing = v1.ListPoliciesRequest()
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "an empty call": lambda: stub.ListPolicies(nothing, timeout=60),  # type: ignore[dict-item, return-value]
            "a label": in_turn(stub, at_once[:1]),
            f"{len(at_once) - 1} real schemas": in_turn(stub, at_once[1:]),
            f"{len(sent)} that go to a worker": in_turn(stub, sent),
        }
        found = await taken({name: act for name, act in acts.items() if not name.startswith("0 ")})
    empty_cpu, empty_wall = found["an empty call"]
    return [
        Row(
            name,
            "validator",
            cpu,
            "call",
            f"{cpu / empty_cpu:.2f} empty calls; wall {wall:.0f} us, {wall / empty_wall:.2f}",
        )
        for name, (cpu, wall) in found.items()
    ]


def in_turn(
    stub: validator_pb2_grpc.ValidatorServiceStub, requests: list[v1.ValidateRequest]
) -> Callable[[], Awaitable[object]]:
    """Make one of `requests` after the other, again and again."""
    turns = itertools.cycle(requests)
    return lambda: stub.Validate(next(turns), timeout=60)  # type: ignore[return-value]


def run() -> Iterator[Row]:
    """Instances, then calls."""
    yield from instances()
    yield from asyncio.run(calls())
