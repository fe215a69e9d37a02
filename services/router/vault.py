"""The vault: what the placeholders of one request stand for. It is kept in memory, as long as the request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from spillway import v1
from spillway.placeholders import ESCAPED, Placeholder


@dataclass(slots=True)
class Vault:
    """Placeholders in the order in which they were made. Its repr does not tell what they stand for."""

    placeholders: tuple[Placeholder, ...] = ()
    made: list[v1.GenerationSpec] = field(default_factory=list, repr=False)
    """Copies that may leave, kept so that each is known for one."""
    before: v1.GenerationSpec | None = field(default=None, repr=False)
    """The prompt as it was before a summary took the place of some of it, which may end within something sensitive."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while placeholders are made: targets that are asked at once are told the same ones."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of what was redacted, each once."""
        return tuple(sorted({one.kind for one in self.placeholders} - {ESCAPED}))

    def has_made(self, spec: v1.GenerationSpec) -> bool:
        """Whether `spec` is a copy that may leave, that very object."""
        return any(one is spec for one in self.made)

    def __repr__(self) -> str:
        return f"<Vault {len(self.placeholders)} placeholders of {', '.join(self.kinds) or 'nothing'}>"
