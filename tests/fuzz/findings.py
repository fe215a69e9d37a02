"""What random input has found: each stays, with what it is. (schema, answer, cuts)"""

from __future__ import annotations

LABEL = '{"properties": {"label": {"enum": ["a"]}}, "required": ["label"]}'
FINDINGS = {
    "a key given twice was doomed by its first value and mended to its last": (
        LABEL,
        '{"label": "b", "label": "a"}',
        [3],
    ),
}
