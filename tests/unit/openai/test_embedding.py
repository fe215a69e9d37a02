"""An embedding in OpenAI's wire format."""

from __future__ import annotations

from typing import Any

import pytest

from spillway import v1
from spillway.errors import ConstraintUnsupported
from spillway.openai.embedding import body_of


def asked(**extra: Any) -> v1.EmbeddingSpec:
    spec = v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text="a")])
    spec.extra.update(extra)
    return spec


def test_what_only_the_target_knows_is_passed_on_under_what_the_contract_says() -> None:
    body = body_of(asked(truncate_prompt_tokens=-1, input="b", model="other"), "m")
    assert body == {"model": "m", "input": ["a"], "encoding_format": "base64", "truncate_prompt_tokens": -1}


@pytest.mark.parametrize("name", ["messages", "prompt", "inputs"])
def test_extra_never_says_what_is_embedded(name: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    with pytest.raises(ConstraintUnsupported) as refusal:
        body_of(asked(**{name: [{"role": "user", "content": [image]}]}), "m")
    assert refusal.value.fields[0].field == f"spec.extra.{name}"
