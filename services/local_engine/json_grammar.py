"""JSON under a schema, as a grammar whose gaps are bounded.

JSON allows any amount of space between two tokens, and a small model held to a schema may spend its whole answer there.
vLLM can only forbid the space, which is foreign to models that write it, so the schema becomes a grammar here, by the
library vLLM itself uses.
"""

from __future__ import annotations

import xgrammar

MAX_GAP = 8
"""Characters of white space between two tokens: enough for a line break and three levels of indentation."""
ANY_OBJECT = '{"type": "object"}'


def bounded(schema: str) -> str | None:
    """Return the grammar of `schema`, or None where xgrammar finds that it is none."""
    try:
        return str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=True, max_whitespace_cnt=MAX_GAP))
    except (ValueError, RuntimeError):
        return None
