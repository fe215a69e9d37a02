"""One answer on its way, held against its constraint as it arrives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.validator.doom import Doom
from services.validator.fragments import TooMuch
from services.validator.prefix import Broken, Prefix
from services.validator.rules.rule import Reader
from services.validator.schema import Schema
from services.validator.verdict import Constraint, Decision, Finding, FindingKind, Verdict, refused

_LEAD: Final = re.compile(r"\s*(?:`{3,}[^\n`]*\n\s*)?")
_JSON: Final = re.compile(r"""\{\s*["}]|\[\s*[{\["\]\-\dtfn]""")
_MAYBE_JSON: Final = re.compile(r"(?:[{\[]\s*)?|`{1,}[^\n]*")
_NOTE: Final = re.compile(r"\[[\s\d,.\-]*+(?:[tfn][a-z]*+)?+\s*+\]?+\s*+")
"""So begins an array, and so do `[1]` and `[note]` in prose."""
MAX_LEAD_CHARS: Final = 256
"""Longest beginning that is looked at again and again: white space and a fence before JSON, or a note in brackets."""


class Watch:
    """Watches one answer. `schema`: that of a JSON constraint, None where it is too heavy to be followed.

    An answer that begins with JSON is watched as it is written, and that JSON decides. One that begins with prose is
    not: its JSON may be anywhere, so it is judged when it has ended. Of the first, `records` are told where they are
    asked for and the schema says which array holds them.
    """

    def __init__(
        self,
        constraint: Constraint,
        schema: Schema | None,
        *,
        max_depth: int,
        readers: Sequence[tuple[str, Reader]] = (),
        records: bool = False,
    ) -> None:
        self._readers = readers
        self._choices = [choice.strip() for choice in constraint.choices]
        self._said = 0
        self._gap: list[str] = []
        self._repair = constraint.repair
        self._pieces: list[str] = []
        self._lead = ""
        if schema is not None and schema.value is False:
            schema = None  # no other attempt can help, which the end tells
        array = schema.array if records and schema is not None else None
        self._doom = None if schema is None else Doom(schema.value, schema.fragments, array)
        self._prefix = None if self._doom is None else Prefix(self._doom, max_depth=max_depth)
        self._begun = False
        self._start = 0
        self.size = 0
        """UTF-8 bytes that have arrived."""

    @property
    def text(self) -> str:
        """All of it that has arrived."""
        return "".join(self._pieces)

    def take(self, piece: str) -> Verdict | None:
        """Read what has arrived; return a verdict where no end can make it right."""
        self._pieces.append(piece)
        self.size += len(piece.encode())
        found = [replace(one, rule=rule) for rule, reader in self._readers if (one := reader.take(piece)) is not None]
        if found:
            return refused(found)
        if self._choices:
            return self._choice(piece)
        return self._json(piece)

    @property
    def records(self) -> tuple[int, int]:
        """How many records are whole and accepted, and how many characters of the answer there are up to their end."""
        doom = self._doom
        return (0, 0) if doom is None or not doom.records else (doom.records, self._start + doom.records_end)

    def _choice(self, piece: str) -> Verdict | None:
        """Hold what is new against the choices that are left; white space counts once something follows it."""
        if not self._said:
            piece = piece.lstrip()
        if not piece:
            return None
        self._gap.append(piece)
        if piece.isspace():
            return None
        new = "".join(self._gap)
        self._gap = [new[len(new.rstrip()) :]]
        new = new.rstrip()
        self._choices = [choice for choice in self._choices if choice.startswith(new, self._said)]
        self._said += len(new)
        if self._choices:
            return None
        return _refused(Finding(FindingKind.CHOICE, "the answer begins like none of the choices"))

    def _json(self, piece: str) -> Verdict | None:
        if self._prefix is None or self._doom is None:
            return None
        if not self._begun:
            self._lead += piece
            start = _LEAD.match(self._lead)
            place = start.end() if start is not None else 0
            if not _JSON.match(self._lead, place):
                if len(self._lead) > MAX_LEAD_CHARS or not _MAYBE_JSON.fullmatch(self._lead, place):
                    self._prefix = None
                return None
            self._begun, self._start, piece = True, place, self._lead[place:]
        try:
            self._prefix.feed(piece)
        except (Broken, TooMuch):
            self._prefix = None  # it may be mended, or JSON may follow: the end will tell
            return None
        prefix = self._prefix
        if prefix.whole:
            self._prefix = None
        if not self._doom.sealed or (self._repair and not prefix.sure):
            return None
        if self.size <= MAX_LEAD_CHARS and _NOTE.fullmatch(self.text.lstrip()):
            return None
        return _refused(Finding(FindingKind.SCHEMA, self._doom.why, self._doom.where))

    def __repr__(self) -> str:
        return f"<Watch {self.size} bytes, {'on' if self._prefix else 'off'}>"


def _refused(finding: Finding) -> Verdict:
    return Verdict(Decision.RETRY, (finding,))
