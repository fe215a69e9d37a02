"""The body of POST /v1/embeddings, read into a spec of the contract."""

from __future__ import annotations

from dataclasses import dataclass

from spillway import v1

from .failure import wrong
from .parameters import AUTO, NO_OPS, Parameters, token_ids


@dataclass(frozen=True, slots=True)
class EmbeddingAsked:
    """A request as the router takes it. `packed`: vectors are told as base64."""

    spec: v1.EmbeddingSpec
    packed: bool = False


def read_embedding(body: object) -> EmbeddingAsked:
    """Return what `body` asks for. Raises RequestInvalid or ParameterUnknown naming the parameter that is wrong."""
    told = Parameters(body)
    model = told.text("model") or ""
    spec = v1.EmbeddingSpec(model="" if model == AUTO else model, inputs=_inputs(told.raw("input")))
    dimensions = told.integer("dimensions")
    if dimensions is not None:
        if dimensions < 1:
            raise wrong("dimensions", "must be at least 1")
        spec.dimensions = dimensions
    form = told.text("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise wrong("encoding_format", "must be float or base64")
    told.ignore(NO_OPS)
    told.end()
    return EmbeddingAsked(spec, form == "base64")


def _inputs(told: object) -> list[v1.EmbeddingInput]:
    """One text, one list of tokens, or a list of either."""
    match told:
        case None:
            raise wrong("input", "is missing")
        case str():
            return [v1.EmbeddingInput(text=told)]
        case [int(), *_]:
            return [_tokens("input", told)]
        case list():
            return [
                v1.EmbeddingInput(text=one) if isinstance(one, str) else _tokens(f"input[{index}]", one)
                for index, one in enumerate(told)
            ]
        case _:
            raise wrong("input", "must be a text, a list of token ids, or a list of these")


def _tokens(name: str, told: object) -> v1.EmbeddingInput:
    return v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=token_ids(name, told)))
