"""ScoreConfidence as its callers meet it: a real server and a real channel."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.validator.app import build
from services.validator.settings import ConfidenceSettings, ValidatorSettings, WorkerSettings
from spillway import errors, v1
from spillway.rpc.status import from_rpc_error
from spillway.testing.server import LOOPBACK
from spillway.v1 import validator_pb2_grpc

SCHEMA = json.dumps({"type": "object", "properties": {"label": {"type": "string"}}})
BOUNDS = ConfidenceSettings(max_answers=3, max_prompt_bytes=4000, max_answer_bytes=4000, max_tokens=100, inline_size=50)


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    settings = ValidatorSettings(server=LOOPBACK, workers=WorkerSettings(processes=1), confidence=BOUNDS)
    async with build(settings) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        yield validator_pb2_grpc.ValidatorServiceStub(channel)


def sampled(*tokens: tuple[str, float], truncated: bool = False) -> v1.SampledAnswer:
    told = [
        v1.TokenLogprob(token_id=index, token=text, logprob=logprob) for index, (text, logprob) in enumerate(tokens)
    ]
    return v1.SampledAnswer(text="".join(text for text, _ in tokens), logprobs=told, truncated=truncated)


async def refused(stub: Any, request: v1.ScoreConfidenceRequest) -> errors.SpillwayError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ScoreConfidence(request, timeout=60)
    return from_rpc_error(caught.value)


async def test_with_log_probabilities_alone_the_score_is_their_geometric_mean(stub: Any) -> None:
    request = v1.ScoreConfidenceRequest(answers=[sampled(("bill", -0.1), ("ing", -0.3), ("\n", -9.0))])
    told = await stub.ScoreConfidence(request, timeout=60)
    assert told.score == pytest.approx(math.exp(-0.2))
    assert told.signs.mean_logprob == pytest.approx(-0.2)
    assert told.signs.min_logprob == pytest.approx(-0.3)
    assert told.signs.HasField("entropy")
    assert told.signs.HasField("refusal")
    assert not told.signs.HasField("agreement")
    assert not told.signs.HasField("novelty")
    assert told.model.startswith("plain@")


async def test_names_that_the_schema_fixes_do_not_count(stub: Any) -> None:
    answer = sampled(('{"', -0.25), ("label", -5.0), ('": "', -0.25), ("billing", -0.25), ('"}', -0.25))
    request = v1.ScoreConfidenceRequest(answers=[answer], constraint=v1.OutputConstraint(json_schema=SCHEMA))
    told = await stub.ScoreConfidence(request, timeout=60)
    assert told.signs.mean_logprob == -0.25


async def test_where_nothing_is_known_there_is_no_score(stub: Any) -> None:
    told = await stub.ScoreConfidence(v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer(text="x")]), timeout=60)
    assert not told.HasField("score")


async def test_samples_that_disagree_and_a_judge_that_doubts_lower_the_score(stub: Any) -> None:
    answers = [sampled(("yes", -0.1)), v1.SampledAnswer(text="no"), v1.SampledAnswer(text="Yes!")]
    alone = await stub.ScoreConfidence(v1.ScoreConfidenceRequest(answers=answers[:1]), timeout=60)
    half = await stub.ScoreConfidence(v1.ScoreConfidenceRequest(answers=answers), timeout=60)
    none = await stub.ScoreConfidence(v1.ScoreConfidenceRequest(answers=answers[:2], judge_score=0.1), timeout=60)
    assert half.signs.agreement == 0.5
    assert none.signs.judge == 0.1
    assert alone.score == pytest.approx(half.score)
    assert none.score < 0.2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (v1.ScoreConfidenceRequest(), "answers"),
        (v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer()] * 4), "answers"),
        (v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer(text="x" * 4001)]), "answers[0].text"),
        (v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer()], prompt=["x" * 2000, "y" * 2001]), "prompt[1]"),
        (v1.ScoreConfidenceRequest(answers=[sampled(*[("x", -1.0)] * 101)]), "answers[0].logprobs"),
        (v1.ScoreConfidenceRequest(answers=[sampled(("x", math.nan))]), "answers[0].logprobs[0].logprob"),
        (v1.ScoreConfidenceRequest(answers=[sampled(("x", 0.5))]), "answers[0].logprobs[0].logprob"),
        (v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer()], judge_score=1.5), "judge_score"),
        (v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer()], judge_score=math.nan), "judge_score"),
        (
            v1.ScoreConfidenceRequest(
                answers=[v1.SampledAnswer()], constraint=v1.OutputConstraint(json_schema="{broken")
            ),
            "constraint.json_schema",
        ),
    ],
)
async def test_what_cannot_be_read_is_refused_by_its_field(
    stub: Any, request_: v1.ScoreConfidenceRequest, field: str
) -> None:
    error = await refused(stub, request_)
    assert isinstance(error, errors.RequestInvalid)
    assert [violation.field for violation in error.fields] == [field]


async def test_a_long_answer_is_scored_as_a_short_one_is(stub: Any) -> None:
    request = v1.ScoreConfidenceRequest(answers=[sampled(*[("word ", -0.5)] * 90)])
    assert (await stub.ScoreConfidence(request, timeout=60)).score == pytest.approx(math.exp(-0.5))


async def test_a_task_of_a_later_contract_is_an_unknown_task(stub: Any) -> None:
    request = v1.ScoreConfidenceRequest(answers=[sampled(("x", -0.5))])
    request.MergeFromString(b"\x10\x63")  # task: 99
    assert request.task == 99
    assert (await stub.ScoreConfidence(request, timeout=60)).score == pytest.approx(math.exp(-0.5))
