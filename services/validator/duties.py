"""What a worker process is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.validator.settings import JudgementSettings


@dataclass(frozen=True, slots=True)
class Duties:
    """The bounds it judges within, and what it needs for it."""

    judgement: JudgementSettings
    memory_bytes: int
    """Of its address space."""
    registered: Mapping[str, str] = field(default_factory=dict)
    """Texts of the schemas that every other one may refer to, by their URI."""
    recogniser: str = ""
    """Name of what recognises names and addresses; empty: nothing does."""
