"""The recogniser that is always there: names by the words before them and by given names, addresses by streets."""

from __future__ import annotations

from collections.abc import Sequence

from services.validator.sensitive.address import addresses
from services.validator.sensitive.name import person_names


class Patterns:
    """Rules for English, French, German and Spanish, with no model: docs/sensitive.md says how much they miss."""

    kinds = frozenset({"name", "address"})

    def find(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        """Return where names and postal addresses stand, in time linear in the texts."""
        return [
            [*((*place, "name") for place in person_names(text)), *((*place, "address") for place in addresses(text))]
            for text in texts
        ]

    def __repr__(self) -> str:
        return "<Patterns name, address>"
