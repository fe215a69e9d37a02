"""What random input has found: each stays, with what it is. (schema, answer, cuts)"""

from __future__ import annotations

LABEL = '{"properties": {"label": {"enum": ["a"]}}, "required": ["label"]}'
FINDINGS = {
    "a key given twice was doomed by its first value and mended to its last": (
        LABEL,
        '{"label": "b", "label": "a"}',
        [3],
    ),
    "escapes of a pair of surrogates were mended to its halves, which no message can hold": (
        '{"type": "object"}',
        '{Sure: ["\\ud800\\udc00"]',
        [1],
    ),
    "a set of Python's was doomed as an object and mended to an array": ('{"type": "array"}', '{"a", "b"}', [1]),
    "half of a pair of surrogates in broken JSON": ("{}", '{"a": "\\udc00",}', [1]),
    "an array that had just begun was left out by mending": (
        '{"prefixItems": [{}, false], "minLength": 0}',
        "[[], []]",
        [1],
    ),
}
