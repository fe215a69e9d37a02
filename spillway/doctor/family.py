"""Shapes of well-known models, as published: for a model of which only its size is told, and for what fits here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from spillway.doctor.architecture import Architecture, architecture
from spillway.doctor.weights import Model, Weights
from spillway.errors import FieldViolation, RequestInvalid


def _shape(
    kind: str, hidden: int, layers: int, heads: int, inner: int, vocabulary: int, context: int, **more: int | bool
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        **more,
    }


FAMILIES: Mapping[str, tuple[str, Architecture]] = {
    size: (like, architecture(config))
    for size, like, config in (
        ("1B", "Llama-3.2-1B", _shape("llama", 2048, 16, 32, 8192, 128256, 131072, tie_word_embeddings=True)),
        ("3B", "Llama-3.2-3B", _shape("llama", 3072, 28, 24, 8192, 128256, 131072, tie_word_embeddings=True)),
        ("8B", "Llama-3.1-8B", _shape("llama", 4096, 32, 32, 14336, 128256, 131072)),
        ("14B", "Qwen2.5-14B", _shape("qwen2", 5120, 48, 40, 13824, 152064, 131072)),
        ("32B", "Qwen2.5-32B", _shape("qwen2", 5120, 64, 40, 27648, 152064, 131072)),
        ("70B", "Llama-3.1-70B", _shape("llama", 8192, 80, 64, 28672, 128256, 131072)),
        (
            "8x7B",
            "Mixtral-8x7B",
            _shape("mixtral", 4096, 32, 32, 14336, 32000, 32768, num_local_experts=8, num_experts_per_tok=2),
        ),
    )
}
"""Size -> the model it is the size of, and its shape (config.json on the Hugging Face hub)."""
BITS = (16, 8, 4)
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_SIZED = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[KMBT])(?:@(?P<bits>\d+(?:\.\d+)?))?", re.IGNORECASE)


def sized(text: str) -> Model | None:
    """Read "7B@4" or "8x7B@4": parameters and, 16 if not said, bits. None: this is no size."""
    size, _, bits = text.partition("@")
    for family in FAMILIES:
        if size.lower() == family.lower():
            return member(family, _bits(bits or "16"))
    if not (match := _SIZED.fullmatch(text)):
        return None
    return model_of(float(match["number"]) * _UNITS[match["unit"].upper()], _bits(match["bits"] or "16"))


def model_of(parameters: float, bits: float) -> Model:
    """Return a model of `parameters`, shaped like the family nearest to it. Raises RequestInvalid if it cannot be."""
    if not 1 <= parameters <= 1e14:
        raise _wrong("parameters", "expected a number from 1 to 1e14, such as 7e9")
    _bits(str(bits))
    like, shape = min(FAMILIES.values(), key=lambda family: abs(family[1].parameters - parameters))
    return _model(f"{short(parameters)} x {bits:g} bits", round(parameters), bits, like, shape)


def member(family: str, bits: float) -> Model:
    """Return the family's model at `bits` a weight."""
    like, shape = FAMILIES[family]
    return _model(f"{family} x {bits:g} bits", shape.parameters, bits, like, shape)


def _model(name: str, parameters: int, bits: float, like: str, shape: Architecture) -> Model:
    packed = bits != 8 * shape.width
    weights = Weights(packed_bytes=round(parameters * bits / 8)) if packed else Weights(plain=parameters)
    return Model(name, shape, weights, parameters, source=f"parameters x bits / 8; shaped like {like}")


def short(parameters: float) -> str:
    """Write a number of parameters: 7B, 3.15M."""
    for unit, size in reversed(_UNITS.items()):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return f"{parameters:.0f}"


def _bits(text: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        bits = 0.0
    if not 1 <= bits <= 32:
        raise _wrong("bits", f"expected a number from 1 to 32, found {text!r:.40}")
    return bits


def _wrong(field: str, why: str) -> RequestInvalid:
    return RequestInvalid(f"{field}: {why}", fields=[FieldViolation(field, why)])
