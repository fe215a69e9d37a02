"""How far a live stream has come, and what another target needs to go on with it."""

from __future__ import annotations

from collections.abc import Iterator

from spillway import v1
from spillway.generation import tokens_in
from spillway.rpc.lane import Lane

from .leg import Leg, crossing
from .target import Target


class Progress:
    """The events that the caller has, and their tokens and text: kept only where something could go on with them."""

    __slots__ = (
        "_begun",
        "_by_tokens",
        "_ids",
        "_spec",
        "_text",
        "_tokens",
        "_weights",
        "crosses",
        "lane",
    )

    def __init__(
        self,
        spec: v1.GenerationSpec,
        targets: list[Target],
        continue_on: str = "same_weights",
        lane: Lane | None = None,
    ) -> None:
        weights = [target.weights for target in targets if target.weights]
        alike, any_model = len(weights) != len(set(weights)), continue_on == "any_model"
        free = (alike or any_model) and _can_be_continued(spec)
        self._by_tokens = free and alike
        self.crosses = free and any_model and _can_be_continued_by_text(spec)
        """Whether another model may be asked to go on."""
        self._spec = spec
        self._begun = False
        self._ids: list[int] = []
        self._text: list[str] = []
        self._weights = ""
        self._tokens = 0
        self.lane = lane or Lane()
        """By which deltas go that need not be read; those that went after the tokens and the text above are there."""
        self._keep_on()

    @property
    def sequence(self) -> int:
        """Events given so far: the number of the next one."""
        return self.lane.sequence

    @property
    def tokens(self) -> int:
        """Given so far; a delta that does not tell is taken for one."""
        return self._tokens + self.lane.passed

    @property
    def weights(self) -> str:
        """Of the target that answers; empty where nothing can go on with its tokens."""
        self._read()
        return self._weights

    def legs(self, target: Target, *, restarts: bool) -> Iterator[Leg]:
        """Yield what `target` can be asked, best first. With `restarts` a stream that has begun may start again."""
        if not self._begun:
            yield Leg(self._spec)
        elif self.weights and target.weights == self.weights:
            yield Leg(self._rest(), goes_on=True)
        elif self.crosses and (leg := crossing(self._spec, "".join(self._text), self.tokens, target)) is not None:
            yield leg
        if self._begun and restarts:
            yield Leg(self._spec)

    def begin(self, target: Target, leg: Leg) -> None:
        """The answer of `leg` begins, at its first token."""
        self._read()
        self._begun = True
        if leg.overlap is not None:
            self._weights = ""  # two tokenizers have no tokens in common
        elif not leg.goes_on:
            self._ids.clear()
            self._text.clear()
            self._tokens = -self.lane.passed
            self._weights = target.weights if self._by_tokens else ""
        self._keep_on()

    def take(self, event: v1.GenerationEvent) -> None:
        """The caller is given `event`, which gets its number."""
        event.sequence = self.lane.sequence
        self.lane.sequence += 1
        if event.HasField("delta"):
            self._read()
            self._tokens += tokens_in(event)
            self._keep(event.delta)

    def _read(self) -> None:
        if self.lane.kept:
            kept, self.lane.kept = self.lane.kept, []
            for event in kept:
                self._keep(v1.GenerationEvent.FromString(event).delta)

    def _keep_on(self) -> None:
        """Have the lane keep what passes there, if that is needed to go on with it."""
        self.lane.kept = [] if self._weights or self.crosses else None

    def _keep(self, delta: v1.Delta) -> None:
        if self._weights and (len(delta.token_ids) != delta.tokens or delta.reasoning or delta.tool_calls):
            self._weights = ""  # a target that does not tell its tokens, or some of them are no text
            self._keep_on()
        if self._weights:
            self._ids.extend(delta.token_ids)
        if self._weights or self.crosses:
            self._text.append(delta.text)

    def _rest(self) -> v1.GenerationSpec:
        """The request for what is still to come, of a target with the same weights."""
        spec = v1.GenerationSpec()
        spec.CopyFrom(self._spec)
        if spec.HasField("logprobs"):
            spec.logprobs.ClearField("prompt")  # the caller has them
        spec.continuation.token_ids.extend(self._ids)
        spec.continuation.text = "".join(self._text)
        return spec

    def __repr__(self) -> str:
        return f"<Progress {self.tokens} tokens of {self._weights or 'nothing that goes on by them'}>"


def _can_be_continued(spec: v1.GenerationSpec) -> bool:
    """Free text alone: the state of a grammar or of a tool call is lost with its engine."""
    return not (spec.HasField("constraint") or spec.tools or spec.sampling.n > 1 or spec.HasField("continuation"))


def _can_be_continued_by_text(spec: v1.GenerationSpec) -> bool:
    """What is not text, or is told or counted by token, means nothing to another model."""
    penalised = spec.sampling.presence_penalty or spec.sampling.frequency_penalty
    return not (penalised or spec.HasField("tokens") or spec.text.HasField("suffix") or spec.HasField("logprobs"))
