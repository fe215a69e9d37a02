"""Names of quantizations, and how many bits they leave a weight.

A K-quant mixes widths (Q4_K_M has 4.8 bits on average); what counts here is the width in its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_MIXES = ("", "_S", "_M", "_L", "_XL")


class Quantization(NamedTuple):
    """Bits of a weight; None: the name does not tell. `method` is what vLLM calls it, where vLLM is to be told."""

    bits: int | None
    method: str | None = None


GGUF: Mapping[str, int] = {
    **dict.fromkeys(("TQ1_0", "IQ1_S", "IQ1_M"), 1),
    **dict.fromkeys(("TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", *(f"Q2_K{mix}" for mix in _MIXES)), 2),
    **dict.fromkeys(("IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", *(f"Q3_K{mix}" for mix in _MIXES)), 3),
    **dict.fromkeys(("Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", *(f"Q4_K{mix}" for mix in _MIXES)), 4),
    **dict.fromkeys(("Q5_0", "Q5_1", *(f"Q5_K{mix}" for mix in _MIXES)), 5),
    **dict.fromkeys(("Q6_K", "Q6_K_L", "Q6_K_XL"), 6),
    **dict.fromkeys(("Q8_0", "Q8_1", "Q8_K", "Q8_K_XL"), 8),
    **dict.fromkeys(("F16", "BF16"), 16),
    "F32": 32,
}
"""Names of llama.cpp, which Ollama and LM Studio use too."""
PLAIN: Mapping[str, int] = {"INT4": 4, "INT8": 8, "FP16": 16, "FLOAT16": 16, "BFLOAT16": 16, "FP32": 32, "FLOAT32": 32}
"""Widths by themselves."""
METHODS: Mapping[str, int | None] = {
    "awq": 4,
    "awq_marlin": 4,
    "mxfp4": 4,
    "modelopt_fp4": 4,
    "fp8": 8,
    "mxfp8": 8,
    "experts_int8": 8,
    "gptq": None,
    "gptq_marlin": None,
    "compressed-tensors": None,
    "torchao": None,
    "quark": None,
}
"""Methods of vLLM's. Some exist in several widths, which only the model's files tell."""


def quantization(value: object) -> Quantization:
    """Read the name of a quantization, in any case. Raises ValueError for one that is not known."""
    name = value.strip() if isinstance(value, str) else ""
    upper = name.upper().removeprefix("UD-")
    bits = GGUF.get(upper) or PLAIN.get(upper)
    if bits is not None:
        return Quantization(bits)
    if name.lower() in METHODS:
        return Quantization(METHODS[name.lower()], name.lower())
    known = f"a GGUF name such as Q4_K_M, a width ({', '.join(PLAIN).lower()}) or a method ({', '.join(METHODS)})"
    raise ValueError(f"expected {known}")
