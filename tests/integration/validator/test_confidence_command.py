"""`spillway confidence fit`, and a validator that scores by what it wrote."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from services.validator.app import build
from services.validator.settings import ConfidenceSettings, ValidatorSettings, WorkerSettings
from spillway import v1
from spillway.cli.main import app
from spillway.testing.server import LOOPBACK
from spillway.v1 import validator_pb2_grpc

pytestmark = pytest.mark.usefixtures("logs_come_back")


def outcome(index: int) -> str:
    known = index % 2 == 0
    prompt = f"label the order {index}" if known else f"theorem {chr(97 + index % 26)} of quarks"
    return json.dumps({"target": "small", "prompt": prompt, "answer": "billing", "right": known})


async def test_a_model_that_was_fitted_is_what_a_validator_scores_by(tmp_path: Path) -> None:
    outcomes, model = tmp_path / "outcomes.jsonl", tmp_path / "confidence.json"
    outcomes.write_text("\n".join(map(outcome, range(200))))
    command = ["confidence", "fit", str(outcomes), "--out", str(model), "--name", "ours"]
    assert (await asyncio.to_thread(CliRunner().invoke, app, command)).exit_code == 0
    settings = ValidatorSettings(
        server=LOOPBACK, workers=WorkerSettings(processes=1), confidence=ConfidenceSettings(model_file=model)
    )
    async with build(settings) as served, grpc.aio.insecure_channel(served.server.address) as channel:
        stub = validator_pb2_grpc.ValidatorServiceStub(channel)
        scores = []
        for prompt in ("label the order 7000", "a treatise on whales"):
            answers = [v1.SampledAnswer(text="billing")]
            request = v1.ScoreConfidenceRequest(target="small", prompt=[prompt], answers=answers)
            told = await stub.ScoreConfidence(request, timeout=60)
            assert told.model.startswith("ours@")
            scores.append(told.score)
    assert scores[0] > 0.8
    assert scores[1] < 0.2


def test_outcomes_that_cannot_be_read_are_told_by_the_exit_code(tmp_path: Path) -> None:
    command = ["confidence", "fit", str(tmp_path / "none"), "--out", str(tmp_path / "model")]
    assert CliRunner().invoke(app, command).exit_code == 2
