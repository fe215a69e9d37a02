"""JSON under a schema, as a grammar whose gaps are bounded.

JSON allows any amount of space between two tokens, and a small model held to a schema may spend its whole answer there.
vLLM can only forbid the space, which is foreign to models that write it, so the schema becomes a grammar here, by the
library vLLM itself uses.
"""

from __future__ import annotations

import json
from functools import lru_cache

import xgrammar
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import check_json_nesting
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

MAX_GAP = 8
"""Characters of white space between two tokens: enough for a line break and three levels of indentation."""
ANY_OBJECT = '{"type": "object"}'


@lru_cache(512)
def bounded(schema: str) -> str | None:
    """Return the grammar of `schema`, or None where xgrammar cannot hold a decoder to it, or it is no schema."""
    try:
        check_json_nesting(schema)
        if has_xgrammar_unsupported_json_features(json.loads(schema)):
            return None
        return str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=True, max_whitespace_cnt=MAX_GAP))
    except (VLLMClientError, ValueError, RuntimeError):
        return None
