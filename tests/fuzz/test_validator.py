"""Random schemas, answers and cuts against a validator that runs as in production: its own process, its own workers.

Nothing crashes it, holds it up or makes it grow; and an answer judged while it comes is judged as it is whole. Each
batch has a seed, which a failure tells; `SPILLWAY_SECONDS` is how long it goes on.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.processes import Measured, free_address, started
from services.validator.judgement import Judge
from services.validator.messages import constraint as read
from services.validator.settings import JudgementSettings
from spillway import errors, v1
from spillway.rpc.status import from_rpc_error
from spillway.v1 import validator_pb2_grpc
from tests.fuzz.findings import FINDINGS
from tests.fuzz.hostile import ALL_SCHEMAS, CUTS, PATTERNS, TEXTS

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore:Generating overly large repr")]

SECONDS = float(os.environ.get("SPILLWAY_SECONDS", "10"))
DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "json"
BATCH = 40
HANGING_S = 30.0
"""Nothing takes so long on any machine; a stall is for ever."""
GROWTH, SLACK_BYTES = 1.5, 64 * 2**20
"""Memory at the end, of that after a fifth of the time."""
SECTION = {"judgement": {"cached_schemas": 16}, "workers": {"processes": 2, "time_limit_s": 0.5}}
REFUSALS = (errors.SchemaInvalid, errors.RequestInvalid, errors.ConstraintUnsupported, errors.QueueFull)
GOOD = (v1.VERDICT_DECISION_ACCEPT, v1.VERDICT_DECISION_REPAIR)

Outcome = v1.Verdict | errors.SpillwayError


class Client:
    """Asks a validator in both ways, and counts what it said."""

    def __init__(self, address: str) -> None:
        self.told: Counter[str] = Counter()
        self._channel = grpc.insecure_channel(address)
        self._stub = validator_pb2_grpc.ValidatorServiceStub(self._channel)
        self._judge = Judge(JudgementSettings())

    def whole(self, constraint: v1.OutputConstraint, text: str, *, truncated: bool = False) -> Outcome:
        """The verdict on the whole answer, or the refusal to judge it."""
        request = v1.ValidateRequest(constraint=constraint, answers=[v1.Answer(text=text, truncated=truncated)])
        try:
            verdict: v1.Verdict = self._stub.Validate(request, timeout=HANGING_S).verdicts[0]
        except grpc.RpcError as error:
            return self._refused(error)
        self.told[v1.VerdictDecision.Name(verdict.decision)] += 1
        return verdict

    def streamed(
        self, constraint: v1.OutputConstraint, pieces: list[str], *, truncated: bool
    ) -> v1.ValidateStreamResponse | errors.SpillwayError:
        """What is told of the same in pieces."""
        steps = [
            v1.ValidateStreamRequest(constraint=constraint),
            *(v1.ValidateStreamRequest(piece=v1.AnswerPiece(text=piece)) for piece in pieces),
            v1.ValidateStreamRequest(end=v1.AnswerEnd(truncated=truncated)),
        ]
        try:
            (told,) = self._stub.ValidateStream(iter(steps), timeout=HANGING_S)
        except grpc.RpcError as error:
            return self._refused(error)
        self.told["early" if told.early else "streamed"] += 1
        assert isinstance(told, v1.ValidateStreamResponse)
        return told

    def doomed_at(self, constraint: v1.OutputConstraint, pieces: list[str]) -> str:
        """The beginning of the answer after which a verdict is told early."""
        watch = self._judge.watch(read(constraint))
        for piece in pieces:
            if watch.take(piece) is not None:
                return watch.text
        raise AssertionError("an early verdict that nobody can explain")

    def _refused(self, raised: Any) -> errors.SpillwayError:
        error = from_rpc_error(raised)
        assert isinstance(error, REFUSALS), error
        assert error.fields or isinstance(error, errors.QueueFull), error
        self.told[type(error).__name__] += 1
        return error

    def close(self) -> None:
        self._channel.close()


def agree(client: Client, constraint: v1.OutputConstraint, text: str, cuts: list[int], *, truncated: bool) -> None:
    """Judge `text` whole and in pieces, and hold one against the other."""
    pieces, at = [], 0
    for size in itertools.cycle(cuts if len(text) < 1_000 else [4_096]):
        pieces.append(text[at : at + size])
        at += size
        if at >= len(text):
            break
    for _ in range(3):
        whole = client.whole(constraint, text, truncated=truncated)
        streamed = client.streamed(constraint, pieces, truncated=truncated)
        if isinstance(streamed, v1.ValidateStreamResponse) and streamed.early:
            if isinstance(whole, v1.Verdict):  # a second value, after the first that was doomed, may still be taken out
                assert whole.decision != v1.VERDICT_DECISION_ACCEPT
                assert all(finding.kind != v1.FINDING_KIND_REPAIRED for finding in whole.findings)
            doomed = client.whole(constraint, client.doomed_at(constraint, pieces))
            assert not (isinstance(doomed, v1.Verdict) and doomed.decision in GOOD)
            return
        if "took more than" in str(whole) or "took more than" in str(streamed):
            return  # once in time, once not
        said = streamed.verdict if isinstance(streamed, v1.ValidateStreamResponse) else streamed
        if isinstance(whole, v1.Verdict) and said == whole:
            return
        if type(said) is type(whole) and isinstance(said, errors.SpillwayError) and str(said) == str(whole):
            return
    raise AssertionError(f"whole {whole}, in pieces {said}")  # three times: no accident of time


@contextmanager
def heartbeat(address: str) -> Iterator[list[float]]:
    """Ask simple things all along; yield how long each took, in seconds. What fails is raised at the end."""
    over, failed, took = threading.Event(), list[BaseException](), list[float]()

    def beat() -> None:
        with grpc.insecure_channel(address) as channel:
            validate = validator_pb2_grpc.ValidatorServiceStub(channel).Validate
            health = health_pb2_grpc.HealthStub(channel).Check
            asked = v1.OutputConstraint(choices=v1.Choices(values=["yes", "no"]))
            request = v1.ValidateRequest(constraint=asked, answers=[v1.Answer(text="yes")])
            while not over.wait(0.05):
                began = time.monotonic()
                try:
                    assert health(health_pb2.HealthCheckRequest(), timeout=HANGING_S).status == 1
                    verdict = validate(request, timeout=HANGING_S).verdicts[0]
                    assert verdict.decision == v1.VERDICT_DECISION_ACCEPT
                except (grpc.RpcError, AssertionError) as error:
                    failed.append(error)
                took.append(time.monotonic() - began)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        yield took
    finally:
        over.set()
        beating.join()
    assert not failed, failed[:3]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    address = free_address()
    config: Path = tmp_path_factory.mktemp("fuzz") / "spillway.yaml"
    config.write_text(yaml.safe_dump({"validator": {"server": {"listen": address}, **SECTION}}))
    with started("services.validator", "--config", str(config), address=address) as validator:
        yield validator


@pytest.fixture(scope="module")
def client(served: Measured) -> Iterator[Client]:
    client = Client(served.address)
    yield client
    client.close()


CONSTRAINTS = st.integers(0, 9).flatmap(
    lambda way: (
        PATTERNS.map(lambda pattern: v1.OutputConstraint(regex=pattern))
        if way == 0
        else st.builds(v1.OutputConstraint, json_object=st.just(True), repair=st.sampled_from([0, 1, 2]))
        if way == 1
        else st.builds(v1.OutputConstraint, json_schema=ALL_SCHEMAS, repair=st.sampled_from([0, 1, 2]))
    )
)


@pytest.mark.parametrize("what", FINDINGS)
def test_what_was_found_once_stays_right(client: Client, what: str) -> None:
    schema, text, cuts = FINDINGS[what]
    for repair in (v1.REPAIR_ALLOWED, v1.REPAIR_FORBIDDEN):
        agree(client, v1.OutputConstraint(json_schema=schema, repair=repair), text, cuts, truncated=False)


@pytest.mark.conformance
# The texts are others' and never copied in here: they run where SPILLWAY_DATA names them, as it does in CI.
@pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with cases")
@pytest.mark.parametrize("repair", [v1.REPAIR_ALLOWED, v1.REPAIR_FORBIDDEN])
def test_broken_json_of_others_crashes_nothing_and_is_judged_in_pieces_as_whole(
    client: Client, repair: v1.Repair.ValueType
) -> None:
    cases = [json.loads(line) for line in (DATA / "parsing_suite.jsonl").read_text().splitlines()]
    texts = [base64.b64decode(case["base64"]).decode(errors="replace") for case in cases]
    texts += [json.loads(line)["input"] for line in (DATA / "repair_cases.jsonl").read_text().splitlines()]
    chance = random.Random(20)
    for text in texts:
        schema = chance.choice(["{}", '{"type": "object"}', '{"type": "array", "items": {"type": "string"}}'])
        constraint = v1.OutputConstraint(json_schema=schema, repair=repair)
        agree(client, constraint, text, chance.choices(range(1, 20), k=5), truncated=False)


def test_nothing_crashes_holds_up_or_fills_it_and_pieces_are_judged_as_the_whole(
    served: Measured, client: Client
) -> None:
    @given(constraint=CONSTRAINTS, text=TEXTS, cuts=CUTS, truncated=st.integers(0, 9).map(lambda way: way == 0))
    @settings(
        max_examples=BATCH,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    def batch(constraint: Any, text: str, cuts: list[int], truncated: bool) -> None:
        agree(client, constraint, text, cuts, truncated=truncated)

    began = time.monotonic()
    warm: int | None = None
    with heartbeat(served.address) as took:
        for number in itertools.count():
            seed(number)(batch)()
            past = time.monotonic() - began
            if warm is None and past > SECONDS / 5:
                warm = served.resident_bytes()
            if past > SECONDS:
                break
    assert warm is not None
    now = served.resident_bytes()
    print(
        f"{number + 1} batches, {dict(client.told)}, {len(took)} beats, the longest {max(took):.2f} s, "
        f"{warm / 2**20:.0f} then {now / 2**20:.0f} MiB"
    )
    assert now < GROWTH * warm + SLACK_BYTES
