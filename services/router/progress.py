"""How far a live stream has come: what a target with the same weights needs to go on with it."""

from __future__ import annotations

from spillway import v1

from .target import Target


class Progress:
    """The tokens and the text that the caller has. Kept only where something could go on with them."""

    def __init__(self, spec: v1.GenerationSpec, targets: list[Target]) -> None:
        weights = [target.weights for target in targets if target.weights]
        self._kept = len(weights) != len(set(weights)) and _can_be_continued(spec)
        self._spec = spec
        self._ids: list[int] = []
        self._text: list[str] = []
        self.weights = ""
        """Of the target that answers; empty where nothing can go on with its answer."""

    @property
    def tokens(self) -> int:
        """Tokens given so far, where they are kept."""
        return len(self._ids)

    def begin(self, target: Target) -> None:
        """An answer begins, at its first token."""
        self._ids.clear()
        self._text.clear()
        self.weights = target.weights if self._kept else ""

    def take(self, delta: v1.Delta) -> None:
        """The caller is given `delta`."""
        if not self.weights:
            return
        if len(delta.token_ids) != delta.tokens:
            self.weights = ""  # a target that does not tell its tokens
            return
        self._ids.extend(delta.token_ids)
        self._text.append(delta.text)

    def rest(self) -> v1.GenerationSpec:
        """The request for what is still to come."""
        spec = v1.GenerationSpec()
        spec.CopyFrom(self._spec)
        spec.continuation.token_ids.extend(self._ids)
        spec.continuation.text = "".join(self._text)
        return spec

    def __repr__(self) -> str:
        return f"<Progress {self.tokens} tokens of {self.weights or 'nothing that goes on'}>"


def _can_be_continued(spec: v1.GenerationSpec) -> bool:
    """Free text alone: the state of a grammar, of a tool call or of a penalty is lost with its engine."""
    sampling = spec.sampling
    return not (
        spec.HasField("constraint")
        or spec.tools
        or sampling.n > 1
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or spec.HasField("continuation")
    )
