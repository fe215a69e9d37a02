"""Parts of one schema, each compiled when it is first asked."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

import jsonschema_rs

from services.validator.complaint import VALUE, say
from services.validator.registered import refuse
from services.validator.weight import MAX_WEIGHT, REFERENCES, weigh

_ROOT: Final = "spillway://schema/root"
_DIALECT: Final = "$schema"
MAX_COMPILED: Final = 40_000
"""Schema nodes, over all parts of one schema: a tenth of a second of work at 2.5 us a node, seen here."""
PART_NODES: Final = 12
"""What a part costs besides its nodes, in nodes."""


class TooMuch(Exception):
    """The schema asks for more than is followed."""


class Fragments:
    """The subschemas of `root`, by JSON pointer. What cannot be compiled alone accepts everything.

    Raises TooMuch where parts are asked that take MAX_COMPILED nodes to compile.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._registry: jsonschema_rs.Registry | None = None
        self._dialect = {_DIALECT: root[_DIALECT]} if isinstance(root, dict) and _DIALECT in root else {}
        self._compiled: dict[str, Any] = {}
        self._patterns: dict[str, Any] = {}
        self._weights: dict[str, int] = {}
        self._nodes = 0
        told = json.dumps(root)
        self.refers = any(f'"{word}"' in told for word in REFERENCES)
        """Something in it may be a reference."""

    def weight(self, place: str, schema: Any) -> int:
        """Return the nodes of `schema`, which is at `place`, with its references written out."""
        found = self._weights.get(place)
        if found is None:
            found = self._weights[place] = weigh(schema, self._root) or MAX_WEIGHT
        return found

    def objection(self, place: str, schema: Any, value: Any) -> str:
        """Return what `schema`, which is at `place`, has against `value`; empty where it accepts it."""
        validator = self._at(place, schema)
        if validator is None or validator.is_valid(value):
            return ""
        return next((say(error) for error in validator.iter_errors(value)), "does not fit")

    def known(self, place: str, schema: Any) -> bool:
        """Whether `schema`, which is at `place`, can be asked at all."""
        return self._at(place, schema) is not None

    def matches(self, pattern: str, text: str) -> bool | None:
        """Whether `pattern` is found in `text`; None where it cannot be told."""
        if pattern not in self._patterns:
            self._patterns[pattern] = self._compile({"pattern": pattern}, len(pattern) // 16)
        validator = self._patterns[pattern]
        return None if validator is None else bool(validator.is_valid(text))

    def _at(self, place: str, schema: Any) -> Any:
        if place not in self._compiled:
            alone = {**self._dialect, "$ref": f"{_ROOT}#{quote(place)}"}
            self._compiled[place] = self._compile(alone, self.weight(place, schema))
        return self._compiled[place]

    def _compile(self, schema: dict[str, Any], nodes: int) -> Any:
        self._nodes += PART_NODES + nodes
        if self._nodes > MAX_COMPILED:
            raise TooMuch
        try:
            if self._registry is None:
                self._registry = jsonschema_rs.Registry([(_ROOT, self._root)], retriever=refuse)
            return jsonschema_rs.validator_for(
                schema,
                registry=self._registry,
                retriever=refuse,
                validate_formats=True,
                mask=VALUE,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=2**20),
            )
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"<Fragments {len(self._compiled)} compiled, {self._nodes} nodes>"
