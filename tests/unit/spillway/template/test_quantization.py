from __future__ import annotations

import re
from pathlib import Path

import pytest

from spillway.template.quantization import GGUF, METHODS, PLAIN, quantization

DOCS = Path(__file__).parents[4] / "docs" / "template.md"


@pytest.mark.parametrize(
    ("name", "bits"),
    [("Q4_K_M", 4), ("q4_k_m", 4), ("UD-Q4_K_XL", 4), ("IQ2_XXS", 2), ("Q3_K_L", 3), ("Q8_0", 8), ("bf16", 16)],
)
def test_a_gguf_name_tells_the_bits_in_any_case(name: str, bits: int) -> None:
    assert quantization(name) == (bits, None)


def test_the_width_is_the_first_number_of_a_gguf_name() -> None:
    for name, bits in GGUF.items():
        assert re.findall(r"\d+", name)[0] == str(bits)


def test_a_method_of_vllm_is_told_to_it_and_its_bits_may_be_unknown() -> None:
    assert quantization("AWQ") == (4, "awq")
    assert quantization("gptq") == (None, "gptq")


@pytest.mark.parametrize("name", ["Q9_K", "", 4, None, "small", "sk-secret"])
def test_what_is_no_quantization_is_refused_and_not_repeated(name: object) -> None:
    with pytest.raises(ValueError, match="Q4_K_M") as raised:
        quantization(name)
    assert "sk-secret" not in str(raised.value)


def test_the_documented_bits_are_those_of_the_code() -> None:
    section = DOCS.read_text().partition("## Quantization")[2]
    documented = dict(re.findall(r"^\| (.+?) \| (\d+)\D*\|$", section, re.MULTILINE))
    for name, bits in {**GGUF, **PLAIN, **METHODS}.items():
        if bits is None:
            continue
        [words] = [text for text, told in documented.items() if told == str(bits)]
        patterns = [word.replace("*", r"\w*") for word in re.split(r"[,;] ", words)]
        assert any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in patterns), name
