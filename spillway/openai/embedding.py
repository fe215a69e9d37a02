"""Embeddings in OpenAI's wire format: what is asked for, and the vectors of an answer."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import jiter

from spillway import embedding, v1
from spillway.errors import ConstraintUnsupported, FieldViolation, SpillwayError
from spillway.openai.exchange import Exchange
from spillway.openai.request import extra_of

MAX_BODY_BYTES = 64 * 2**20
"""Of an answer: numbers written out take up to five times the room of the vectors that they become."""
OTHER_INPUTS = frozenset({"messages", "prompt", "inputs"})
"""What servers take in place of `input`: vLLM embeds `messages` then, and fetches the images they point to."""


def body_of(spec: v1.EmbeddingSpec, model: str) -> dict[str, Any]:
    """Return the request's body.

    Raises ConstraintUnsupported naming an input that does not go with the others, or that `extra` holds.

    Vectors are asked for as base64, as OpenAI's own clients do: exact, and a quarter of the size. A server that knows
    no base64 answers with numbers, which are read too.
    """
    body = extra_of(spec)
    kinds = {one.WhichOneof("input") for one in spec.inputs}
    if len(kinds) > 1:
        index = next(at for at, one in enumerate(spec.inputs) if one.HasField("tokens"))
        raise _unsupported(
            f"spec.inputs[{index}].tokens", "texts and tokens do not go together here: send two requests"
        )
    for name in sorted(OTHER_INPUTS & body.keys()):
        raise _unsupported(f"spec.extra.{name}", "what is embedded is said in spec.inputs")
    texts = kinds == {"text"}
    body["model"] = model
    body["input"] = [one.text if texts else list(one.tokens.ids) for one in spec.inputs]
    body["encoding_format"] = "base64"
    if spec.HasField("dimensions"):
        body["dimensions"] = spec.dimensions
    return body


def read_vectors(
    provider: str, body: bytes, spec: v1.EmbeddingSpec, exchange: Exchange, *, broken: type[SpillwayError]
) -> v1.EmbedResponse:
    """Return the vectors of `body` in the order of the inputs, and tell `exchange` what they took.

    Raises `broken` where they are not there, are not all there, or are not of one length.
    """
    try:
        told = jiter.from_json(body)
        found = sorted(told["data"], key=lambda one: one["index"])
        if [one["index"] for one in found] != list(range(len(spec.inputs))):
            raise ValueError("not one vector for every input")
        response = v1.EmbedResponse(embeddings=[v1.Embedding(values=_values(one["embedding"])) for one in found])
        exchange.model = str(told.get("model") or "")[:200]
        exchange.usage = v1.Usage()
        count = (told.get("usage") or {}).get("prompt_tokens")
        if type(count) is int and 0 <= count < 2**32:
            exchange.usage = v1.Usage(prompt_tokens=count, completion_tokens=0)
        response.usage.CopyFrom(exchange.usage)
        embedding.require_whole(spec, response)
    except SpillwayError as error:
        raise broken(f"{provider}: {error.message}", resource=provider) from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise broken(f"{provider} does not speak its wire format (embeddings)", resource=provider) from None
    return response


def _unsupported(field: str, said: str) -> ConstraintUnsupported:
    return ConstraintUnsupported(f"{field}: {said}", fields=[FieldViolation(field, said)])


def _values(told: object) -> Sequence[float]:
    if isinstance(told, list):
        return told
    packed = array("f")
    packed.frombytes(base64.b64decode(str(told), validate=True))
    if sys.byteorder == "big":
        packed.byteswap()
    return packed
