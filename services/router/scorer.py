"""The validator as the router asks it of answers: what is known of one in, how likely it is right out."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.util.types import AttributeValue

from spillway import v1
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.v1 import validator_pb2_grpc


class Scorer:
    """Asks the validator at `remote` for confidence, for `timeout_s` seconds at most."""

    def __init__(self, remote: Remote, timeout_s: float) -> None:
        self._remote = remote
        self._timeout_s = timeout_s
        self._score = validator_pb2_grpc.ValidatorServiceStub(remote.channel).ScoreConfidence

    async def score(self, request: v1.ScoreConfidenceRequest, call: Call) -> v1.ScoreConfidenceResponse:
        """Return how likely the first answer of `request` is right. Raises SpillwayError."""

        def told(response: v1.ScoreConfidenceResponse) -> Mapping[str, AttributeValue]:
            known = {names.CONFIDENCE: response.score} if response.HasField("score") else {}
            return {names.TARGET: request.target, **known}

        call = call.until(call.deadline.within(self._timeout_s))
        return await self._remote.unary(self._score, request, call, span_name=names.SCORE_CONFIDENCE, told=told)

    def __repr__(self) -> str:
        return f"<Scorer over {self._remote!r}, {self._timeout_s:g} s>"
