"""What a prompt is taken for."""

from __future__ import annotations

from services.cloud_proxy.proxy import prompt_estimate
from spillway import v1


def test_a_schema_counts_by_its_bytes_as_all_text_does() -> None:
    text = v1.TextPrompt(text="答" * 30)
    schema = v1.OutputConstraint(json_schema="答" * 30)
    assert prompt_estimate(v1.GenerationSpec(text=text, constraint=schema)) == 2 * 30
