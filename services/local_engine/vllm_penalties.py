"""Penalties on the tokens that an answer had before it was cut, in vLLM's own sampler.

vLLM counts presence and frequency over the tokens it made itself; of a continued answer the first ones are part of its
prompt. This adds what is missing, before vLLM's own penalties. See ADR 12.
"""

from __future__ import annotations

from collections import Counter

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from services.local_engine.resumption import EARLIER


class EarlierPenalties(AdapterLogitsProcessor):
    """Penalises what a request's `extra_args` name under EARLIER; other requests are left alone."""

    def is_argmax_invariant(self) -> bool:
        """Never: a penalty may change which token is the likeliest."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Penalties | None:
        """Return what is owed to one request, None if nothing is."""
        earlier = (params.extra_args or {}).get(EARLIER)
        return Penalties(earlier, params) if earlier else None


class Penalties:
    """What the tokens `earlier` take from the logits of the next one, by OpenAI's definition:

    frequency_penalty times how often a token was there, and presence_penalty once if it was there at all. vLLM takes
    the latter itself for a token that it has made again.
    """

    def __init__(self, earlier: list[int], params: SamplingParams) -> None:
        counts = Counter(earlier)
        self._ids = torch.tensor(list(counts))
        self._frequency = torch.tensor(list(counts.values())) * float(params.frequency_penalty)
        self._presence = float(params.presence_penalty)
        self._repetition = float(params.repetition_penalty)

    def __call__(self, made: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Take the penalties from `logits`, one per token of the vocabulary; `made` is what vLLM has made so far."""
        ids = self._ids.to(logits.device)
        again = torch.isin(self._ids, torch.tensor(made, dtype=self._ids.dtype))
        taken = (self._frequency + torch.where(again, 0.0, self._presence)).to(logits)
        logits[ids] = _before_repetition(_repeated(logits[ids], self._repetition) - taken, self._repetition)
        return logits

    def __repr__(self) -> str:
        return f"<Penalties {len(self._ids)} tokens>"


def _repeated(logits: torch.Tensor, penalty: float) -> torch.Tensor:
    """What vLLM's repetition penalty, which comes after this, makes of `logits`."""
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _before_repetition(logits: torch.Tensor, penalty: float) -> torch.Tensor:
    """The logits of which it makes `logits`."""
    return torch.where(logits > 0, logits * penalty, logits / penalty)
