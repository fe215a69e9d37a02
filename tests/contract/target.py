"""A target of the contract suite: a server of `InferenceService`, and what a test must know to drive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.session.client import Session
from spillway.v1 import inference_pb2_grpc

LONG = "Please write a long text."
"""Asked so, a target has something to say for seconds."""


@dataclass
class Target:
    """`running` tells the generations in flight at the very end of the line: the engine's or the provider's.

    `be_silent` keeps the next answer's first token back, `break_after` makes it fail after so many tokens, `exhaust`
    makes the call hit a limit; None where a target cannot be made to. `endless` is what keeps a target going where its
    model would stop by itself.
    """

    remote: Remote
    running: Callable[[], int]
    model: str = ""
    unknown_model: str = "nobody"
    stamp: v1.PolicyStamp | None = None
    be_silent: Callable[[], None] | None = None
    break_after: Callable[[int], None] | None = None
    exhaust: Callable[[], None] | None = None
    endless: v1.Stop | None = None
    continues: bool = True
    """It goes on with an answer that another model began."""
    tells_usage: bool = True
    fewest_tokens: int = 3
    """The shortest answer that a request may ask for."""
    never: tuple[int, ...] = ()
    """Tokens that end an answer: kept from a long one where nothing else keeps a target going."""

    session: Session | None = None
    """Where set, what it generates, it generates in this session."""

    def __post_init__(self) -> None:
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)

    def spec(self, text: str = "Where is my parcel?", **fields: Any) -> v1.GenerationSpec:
        """A chat of one message; greedy, unless `fields` say otherwise."""
        sampling = fields.pop("sampling", v1.Sampling(temperature=0, max_tokens=24))
        chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])])
        return v1.GenerationSpec(**{"model": self.model, "chat": chat, "sampling": sampling, **fields})

    def long(self) -> v1.GenerationSpec:
        """A request that is answered for seconds if nobody stops it."""
        bias = dict.fromkeys(self.never, -100.0)
        sampling = v1.Sampling(temperature=0, max_tokens=1900, logit_bias=bias)
        return self.spec(LONG, sampling=sampling, stop=self.endless)

    def call(self, seconds: float = 30.0, request_id: str = "contract") -> Call:
        return Call(request_id, Deadline.after(seconds))

    async def generate(self, spec: v1.GenerationSpec, call: Call | None = None) -> v1.GenerateResponse:
        request = v1.GenerateRequest(spec=spec, stamp=self.stamp)
        if self.session is not None:
            return await self.session.generate(request, call or self.call(), span_name="contract")
        return await self.remote.unary(self.stub.Generate, request, call or self.call(), span_name="contract")

    def stream(self, spec: v1.GenerationSpec, call: Call | None = None) -> Any:
        request = v1.StreamGenerateRequest(spec=spec, stamp=self.stamp)
        if self.session is not None:
            return self.session.stream(request, call or self.call(), span_name="contract")
        return self.remote.stream(self.stub.StreamGenerate, request, call or self.call(), span_name="contract")

    async def events(self, spec: v1.GenerationSpec, call: Call | None = None) -> list[v1.GenerationEvent]:
        async with self.stream(spec, call) as responses:
            return [response.event async for response in responses]

    async def count(self, spec: v1.GenerationSpec) -> v1.CountTokensResponse:
        request = v1.CountTokensRequest(spec=spec)
        return await self.remote.unary(self.stub.CountTokens, request, self.call(), span_name="contract")

    async def models(self) -> list[v1.Model]:
        answer = await self.remote.unary(
            self.stub.ListModels, v1.ListModelsRequest(), self.call(), span_name="contract"
        )
        return list(answer.models)
