"""Parts of one schema, each compiled when it is first asked."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import jsonschema_rs

from services.validator.complaint import VALUE, say
from services.validator.registered import refuse
from services.validator.weight import MAX_WEIGHT, weigh

_ROOT: Final = "spillway://schema/root"
_DIALECT: Final = "$schema"


class Fragments:
    """The subschemas of `root`, by JSON pointer. What cannot be compiled alone accepts everything."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._registry: jsonschema_rs.Registry | None = None
        self._dialect = {_DIALECT: root[_DIALECT]} if isinstance(root, dict) and _DIALECT in root else {}
        self._compiled: dict[str, Any] = {}
        self._patterns: dict[str, Any] = {}
        self._weights: dict[str, int] = {}

    def weight(self, place: str, schema: Any) -> int:
        """Return the nodes of `schema`, which is at `place`, with its references written out."""
        found = self._weights.get(place)
        if found is None:
            found = self._weights[place] = weigh(schema, self._root) or MAX_WEIGHT
        return found

    def objection(self, place: str, value: Any) -> str:
        """Return what the subschema at `place` has against `value`; empty where it accepts it."""
        if place not in self._compiled:
            self._compiled[place] = self._compile({**self._dialect, "$ref": f"{_ROOT}#{quote(place)}"})
        validator = self._compiled[place]
        if validator is None or validator.is_valid(value):
            return ""
        return next((say(error) for error in validator.iter_errors(value)), "does not fit")

    def matches(self, pattern: str, text: str) -> bool | None:
        """Whether `pattern` is found in `text`; None where it cannot be told."""
        if pattern not in self._patterns:
            self._patterns[pattern] = self._compile({"pattern": pattern})
        validator = self._patterns[pattern]
        return None if validator is None else bool(validator.is_valid(text))

    def _compile(self, schema: dict[str, Any]) -> Any:
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
        return f"<Fragments {len(self._compiled)} compiled>"
