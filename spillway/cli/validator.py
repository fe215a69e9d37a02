"""One call to a validator, from the command line."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.v1.validator_pb2_grpc import ValidatorServiceStub

ASK_S = 10.0


async def ask(rpc: str, request: Message, validator: str, key: str | None) -> Any:
    """Return what the validator at `validator` answers. Raises SpillwayError."""
    remote = Remote(validator, tracing=Tracing("client"), key=key)
    try:
        method = getattr(ValidatorServiceStub(remote.channel), rpc)
        return await remote.unary(method, request, Call(rpc.lower(), Deadline.after(ASK_S)), span_name=rpc)
    finally:
        await remote.close()
