"""Where a model's reasoning ends and its answer begins.

Marks count at the edges of lines alone, where a string of JSON cannot hold them.
"""

from __future__ import annotations

import re

_WORD = r"(?:seed:)?(?:think(?:ing)?|thought|reason(?:ing)?|reflection|analysis|scratchpad)"
_BLOCK = re.compile(
    rf"^[ \t]*+(?:<{_WORD}>.*?(?:</{_WORD}>|\Z)|\[{_WORD}\].*?(?:\[/{_WORD}\]|\Z)|◁{_WORD}▷.*?(?:◁/{_WORD}▷|\Z))"
    r"|<\|channel\|>analysis.*?(?:<\|end\|>|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_END = re.compile(
    rf"^[ \t]*+(?:</{_WORD}>|\[/{_WORD}\]|◁/{_WORD}▷)|(?:</{_WORD}>|\[/{_WORD}\]|◁/{_WORD}▷)(?=[ \t]*+$)"
    r"|<\|channel\|>final[^<\n]*+<\|message\|>",
    re.IGNORECASE | re.MULTILINE,
)


def answer_of(text: str) -> str:
    """Return what `text` says outside its reasoning; empty where it ends within it.

    Some templates begin the reasoning in the prompt: what stands before an end without a beginning is reasoning.
    """
    said = _BLOCK.sub("\n", text)
    ends = [found.end() for found in _END.finditer(said)]
    return said[ends[-1] :] if ends else said
