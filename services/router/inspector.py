"""The validator as the router asks it of prompts: a spec in, what is sensitive in it out."""

from __future__ import annotations

from spillway import v1
from spillway.embedding import Spec
from spillway.errors import SpillwayError
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.v1 import validator_pb2_grpc

from .inspection import Inspection
from .prompt import read_prompt

log = get_logger(__name__)


class Inspector:
    """Asks the validator at `remote`; None: there is none. That it does not answer is an answer, never an error."""

    def __init__(self, remote: Remote | None, timeout_s: float) -> None:
        self._remote = remote
        self._timeout_s = timeout_s
        self._inspect = None
        if remote is not None:
            self._inspect = validator_pb2_grpc.ValidatorServiceStub(remote.channel).InspectInput

    async def inspect(self, spec: Spec, call: Call) -> Inspection:
        """Say what is sensitive in the prompt, within the timeout and the deadline."""
        prompt = read_prompt(spec)
        if prompt.unreadable:
            return Inspection(unreadable=prompt.unreadable, sealed=prompt.sealed)
        if self._remote is None or self._inspect is None:
            return Inspection(away="this router has no validator")
        request = v1.InspectInputRequest(texts=prompt.texts)
        call = call.until(call.deadline.within(self._timeout_s))
        try:
            response = await self._remote.unary(self._inspect, request, call, span_name=names.INSPECT)
        except SpillwayError as error:
            # Whatever its reason is: what it did not look at, nobody did.
            log.warning("prompt.uninspected", why=error.reason)
            return Inspection(away=f"the validator did not answer ({error.reason})")
        kinds = frozenset(span.kind or "unknown" for span in response.spans)
        return Inspection(kinds, sealed=prompt.sealed, marked=bool(response.marks))

    def __repr__(self) -> str:
        return f"<Inspector over {self._remote!r}, {self._timeout_s:g} s>"
