"""The seam for recognisers: what finds names and addresses, which no checksum tells. They come by entry point.

A distribution names a factory in the group `spillway.recognisers`; the setting `validator.inspection.recogniser` names
the entry. It is made once in each worker process, and works there within the worker's bounds of time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from importlib.metadata import entry_points
from typing import Final, Protocol, TypeAlias

from services.validator.sensitive.patterns import Patterns
from services.validator.sensitive.span import Certainty, Span

GROUP: Final = "spillway.recognisers"
Place: TypeAlias = tuple[int, int, str]
"""Characters from the first to before the second, in Unicode code points, and their kind."""


class Recogniser(Protocol):
    """Finds pieces of texts; kinds that it adds are as good as ours wherever kinds are named."""

    @property
    def kinds(self) -> Set[str]:
        """All kinds that it can find: `name`, `address`, and what else it knows."""

    def find(self, texts: Sequence[str]) -> Iterable[Iterable[Place]]:
        """Return the places of each of `texts`, in any order. They may overlap."""


BUILT_IN: Final[dict[str, Callable[[], Recogniser]]] = {"patterns": Patterns}


def load(name: str) -> Recogniser:
    """Return a new recogniser. Raises ValueError where no distribution, or more than one, has it."""
    found = entry_points(group=GROUP, name=name)
    if name in BUILT_IN and not found:
        return BUILT_IN[name]()
    if len(found) != 1:
        known = ", ".join(sorted({*BUILT_IN, *(one.name for one in entry_points(group=GROUP))}))
        raise ValueError(f"{len(found)} distributions have the recogniser {name!r}; there are {known}")
    factory: Callable[[], Recogniser] = next(iter(found)).load()
    return factory()


def recognised(recogniser: Recogniser, name: str, texts: Sequence[str]) -> list[list[Span]]:
    """Return what `recogniser` finds. What our rules find goes before it.

    Raises ValueError if it speaks of places that are none, or of a kind that it did not name: what it looked at then is
    not known.
    """
    found = [
        [Span(start, end, kind, f"{kind}.{name}", Certainty.CONTEXT) for start, end, kind in places]
        for places in recogniser.find(texts)
    ]
    if len(found) != len(texts):
        raise ValueError(f"the recogniser {name!r} looked at {len(found)} of {len(texts)} texts")
    for text, spans in zip(texts, found, strict=True):
        if any(not 0 <= one.start < one.end <= len(text) or one.kind not in recogniser.kinds for one in spans):
            raise ValueError(f"the recogniser {name!r} told a place or a kind that is none")
    return found
