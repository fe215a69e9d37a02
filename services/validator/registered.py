"""Schemas that others may refer to, by their absolute URI: those of the settings, and those that a caller brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin

import jsonschema_rs

from services.validator.document import NotJson, read
from spillway.bundle import is_absolute
from spillway.errors import FieldViolation, SchemaInvalid

FIELD: Final = "constraint.json_schema"
MAX_SCHEMA_DEPTH: Final = 200
"""The library reads no deeper than 255."""
DRAFTS: Final = ("http://json-schema.org/draft-", "https://json-schema.org/draft/")


@dataclass(frozen=True, slots=True)
class Registered:
    """What may be referred to. `values` by URI."""

    values: Mapping[str, Any] = field(default_factory=dict)
    max_depth: int = MAX_SCHEMA_DEPTH

    def joined(self, brought: Iterable[tuple[str, str]]) -> Registered:
        """Return these and what a caller brings: URIs and JSON texts.

        Raises SchemaInvalid for a text that is no schema, a URI that is not absolute, and one that is taken.
        """
        values = dict(self.values)
        for uri, text in brought:
            place = field_of(uri)
            if not is_absolute(uri):
                raise invalid("", "its name is no absolute URI without a fragment", place)
            if uri in self.values or uri.startswith(DRAFTS):
                raise invalid(
                    "", "a schema of that URI is registered already; refer to it, or give yours another", place
                )
            value = values[uri] = parse(text, place, max_depth=self.max_depth)
            own = (value.get("$id") or value.get("id")) if isinstance(value, dict) else None
            if isinstance(own, str) and urljoin(uri, own).removesuffix("#") in self.values:
                raise invalid("/$id", f"a schema of the URI {own[:200]!r} is registered already", place)
        return Registered(values, self.max_depth) if len(values) > len(self.values) else self

    def registry(self, uris: Iterable[str] | None = None) -> jsonschema_rs.Registry:
        """Return those of `uris`, or all, as the library wants them. Raises ValueError for what it cannot read."""
        chosen = self.values if uris is None else {uri: self.values[uri] for uri in uris}
        return jsonschema_rs.Registry(list(chosen.items()), retriever=refuse)

    def __repr__(self) -> str:
        return f"<Registered {len(self.values)} schemas>"


def parse(text: str, place: str = FIELD, *, max_depth: int = MAX_SCHEMA_DEPTH) -> Any:
    """Return the schema that `text` is. Raises SchemaInvalid where it is no JSON object or boolean."""
    try:
        value = read(text, max_depth=max_depth)
    except NotJson as error:
        raise invalid("", f"it is not JSON that can be read: {error}", place) from None
    if not isinstance(value, dict | bool):
        raise invalid("", "a schema is a JSON object or a boolean", place)
    return value


def field_of(uri: str) -> str:
    """The field of the schema that a caller brings as `uri`."""
    return f"constraint.schemas[{uri[:200]}]"


def invalid(path: str, description: str, place: str = FIELD) -> SchemaInvalid:
    """The error for a mistake at `path` of the schema in the field `place`."""
    said = f"at {path!r}: {description}" if path else description
    return SchemaInvalid(f"{place}: {said}"[:500], fields=[FieldViolation(place, said[:500])])


def refuse(uri: str) -> Any:
    """Fetch nothing."""
    raise ValueError(f"refused: {uri}")
