"""The signs of confidence that are read from one question; unknown is None."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signs:
    """As ConfidenceSigns of the contract tells them, with `truncated` besides."""

    mean_logprob: float | None = None
    min_logprob: float | None = None
    entropy: float | None = None
    agreement: float | None = None
    novelty: float | None = None
    refusal: bool = False
    length: float | None = None
    judge: float | None = None
    truncated: bool = False

    @property
    def telling(self) -> bool:
        """Whether anything is known: length alone, or that an answer declines nothing, is not."""
        known = (self.mean_logprob, self.agreement, self.novelty, self.judge)
        return self.refusal or any(sign is not None for sign in known)
