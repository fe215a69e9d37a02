from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.validator.confidence_file import ConfidenceFile
from services.validator.scorer import Scorer
from services.validator.settings import ConfidenceSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import RequestInvalid
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing


async def test_a_score_is_a_span_with_score_and_model_and_no_text(capfd: pytest.CaptureFixture[str]) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("validator", exporter=exporter)
    settings = ConfidenceSettings(max_answers=1)
    file = await asyncio.to_thread(ConfidenceFile, settings)
    scorer = Scorer(settings, file=file, tracing=tracing)
    call = Call("r1", Deadline.after(60), tracing.start("root"))
    answer = v1.SampledAnswer(text="canary", logprobs=[v1.TokenLogprob(token="canary", logprob=0)])
    request = v1.ScoreConfidenceRequest(target="t", prompt=["canary"], answers=[answer])
    found = await scorer.score(call, request)
    await scorer.score(call, v1.ScoreConfidenceRequest(answers=[v1.SampledAnswer(text="canary")]))
    with pytest.raises(RequestInvalid) as caught:
        await scorer.score(call, v1.ScoreConfidenceRequest(answers=[answer] * 2))
    await asyncio.to_thread(tracing.flush)
    tracing.close()
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [names.SCORE] * 3
    assert [dict(span.attributes or {}) for span in spans] == [
        {names.CONFIDENCE: found.score, names.CONFIDENCE_MODEL: found.model},
        {names.CONFIDENCE_MODEL: found.model},
        {names.ERROR_TYPE: "REQUEST_INVALID"},
    ]
    told = "".join(span.to_json() for span in spans) + repr(scorer) + str(caught.value) + "".join(capfd.readouterr())
    assert "canary" not in told


async def test_the_bundled_language_model_has_a_model_of_its_own_under_any_name_that_stands_for_it() -> None:
    settings = ConfidenceSettings(aliases={"local": "bundled"})
    file = await asyncio.to_thread(ConfidenceFile, settings)
    scorer = Scorer(settings, file=file, tracing=Tracing("validator"))
    call = Call("r1", Deadline.after(60))
    request = v1.ScoreConfidenceRequest(prompt=["What is 17 times 23?"], answers=[v1.SampledAnswer(text="billing")])
    told = {}
    for request.target in ("bundled", "local", "other"):
        told[request.target] = await scorer.score(call, request)
    assert told["local"] == told["bundled"]
    assert told["local"].model.startswith("bundled@")
    assert told["local"].signs.novelty is not None
    assert told["local"].score is not None
    assert told["local"].score < 0.5
    assert told["other"].model.startswith("plain@")
    assert told["other"].signs.novelty is None
