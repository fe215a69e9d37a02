"""A JSON Schema and those it refers to as one document, in which every reference is `#` and a pointer.

What holds a decoder to a schema, be it an engine or a provider, reads no other reference. JSON Schema's own bundling
(2020-12, 9.3.1) embeds documents under their `$id`, which none of them reads either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, count
from typing import Any, Final
from urllib.parse import unquote, urljoin

LATEST: Final = "https://json-schema.org/draft/2020-12/schema"
"""What a document is that has no `$schema`."""
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_OUTWARD: Final = re.compile(r'"\$(?:ref|dynamicRef|recursiveRef)"\s*:\s*"[^"#]')
_PLAIN_URI: Final = re.compile(
    r"(?!.*/\.{1,2}(?:/|$))[a-z][a-z0-9+.\-]*:(?://[a-z0-9.\-]+(?::(?!80/|443/)\d+)?(?=/)|(?!//))[\w.~!$&'()*+,;=:@/?\-]*",
    re.ASCII,
)
"""A URI that has one spelling alone, whoever reads it."""
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[^\s#]+")
MAX_URI_CHARS: Final = 2_000
MAX_CHARS: Final = 2**19
"""Texts that are bundled, in characters: a third of a second, if they are references alone."""
_DATA: Final = frozenset({"const", "enum", "default", "examples"})
_MAPS: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)


class Unbundled(ValueError):
    """The schema cannot be told as one document; the message says why."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """`schema` is one document; `reached` are the URIs, of those that were given, which it needed."""

    schema: Any
    reached: tuple[str, ...] = ()


def is_absolute(uri: str) -> bool:
    """Whether schemas can be registered under `uri`: it has a scheme, no fragment, and is not too long."""
    return len(uri) <= MAX_URI_CHARS and _ABSOLUTE.fullmatch(uri) is not None


def refers_out(schema: str) -> bool:
    """Whether the JSON Schema `schema` may refer to another document, by the look of its text."""
    return _OUTWARD.search(schema) is not None


def bundled(schema: str, schemas: Mapping[str, str]) -> str:
    """Return the JSON Schema `schema` and those of `schemas`, by URI, that it needs as one. Raises Unbundled."""
    if not refers_out(schema):
        return schema
    if len(schema) + sum(map(len, schemas.values())) > MAX_CHARS:
        raise Unbundled(f"it has more than {MAX_CHARS} characters with those that come with it")
    try:
        read = {uri: json.loads(text) for uri, text in schemas.items()}
        return json.dumps(bundle(json.loads(schema), read).schema)
    except Unbundled:
        raise
    except (ValueError, RecursionError):
        raise Unbundled("it is not JSON that can be read") from None


def bundle(schema: Any, schemas: Mapping[str, Any], *, most: int | None = None) -> Bundle:
    """Return `schema` and those of `schemas`, by absolute URI, that it needs as one. Leaves both as they are.

    Raises Unbundled for what a pointer does not say: documents of different drafts, a part with an `$id` of its own,
    an anchor or a dynamic reference where there is more than one document, and a reference to none of them; and for
    more than `most` objects and arrays.
    """
    root = _Document.read("", schema)
    if not isinstance(schema, Mapping):
        return Bundle(schema)
    gathering = _Gathering(root, {uri: _Document.read(uri, value) for uri, value in schemas.items()}, most)
    told = gathering.rewritten(schema, root)
    embedded = gathering.embedded()
    if embedded:
        told = {**told, gathering.shelf: {**told.get(gathering.shelf, {}), **embedded}}
    return Bundle(told, tuple(gathering.names))


@dataclass(frozen=True, slots=True)
class _Document:
    base: str
    value: Any
    dialect: str = LATEST
    odd: str = ""
    """Why it cannot be bundled."""

    @classmethod
    def read(cls, uri: str, value: Any) -> _Document:
        if not isinstance(value, Mapping):
            return cls(uri, value)
        dialect = str(value.get("$schema", LATEST)).removesuffix("#")
        own = value.get(_id_word(dialect))
        base = urljoin(uri, own).removesuffix("#") if isinstance(own, str) else uri
        odd = ""
        if isinstance(own, str) and "$ref" in value and "/draft-0" in dialect:
            odd = "an $id beside a $ref is passed over in drafts up to 7"
        elif base and not _PLAIN_URI.fullmatch(base):
            odd = f"{base[:200]!r} can be spelt in more ways than one"
        return cls(base, value, dialect, odd)

    @property
    def id_word(self) -> str:
        return _id_word(self.dialect)


@dataclass(slots=True)
class _Gathering:
    """Documents on their way into `root`: `names` of those that were needed so far, by URI."""

    root: _Document
    documents: Mapping[str, _Document]
    most: int | None = None
    names: dict[str, str] = field(default_factory=dict)
    dynamic: bool = False
    _count: int = 0
    _needed: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)
    _by_base: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        shelf = self.root.value.get(self.shelf, {})
        if not isinstance(shelf, Mapping):
            raise Unbundled(f"its {self.shelf} are no object")
        self._taken.update(shelf)
        self._by_base = {}
        for uri, document in self.documents.items():
            for known in {uri, document.base}:
                if known in self._by_base or known == self.root.base:
                    raise Unbundled(f"two documents are {known[:200]!r}")
                self._by_base[known] = uri

    @property
    def shelf(self) -> str:
        """Where the root keeps what is referred to."""
        return "definitions" if "/draft-0" in self.root.dialect else "$defs"

    def embedded(self) -> dict[str, Any]:
        """Return what is needed, and what that needs, by name."""
        found: dict[str, Any] = {}
        for uri in self._needed:  # it grows meanwhile
            document = self.documents[uri]
            value = self.rewritten(document.value, document)
            if isinstance(value, dict):
                if document.dialect != self.root.dialect:
                    raise Unbundled(f"{uri[:200]!r} is of another draft")
                value = {word: said for word, said in value.items() if word not in ("$schema", document.id_word)}
            found[self.names[uri]] = value
        if self.dynamic and found:
            raise Unbundled("a dynamic reference may mean something else in one document")
        return found

    def rewritten(self, node: Any, document: _Document, *, named: bool = False) -> Any:
        """Return a copy of `node` with its references as pointers; `named`: its keys are names, and no keywords."""
        if document.odd:
            raise Unbundled(document.odd)
        if self.most is not None and isinstance(node, list | dict):
            self._count += 1
            if self._count > self.most:
                raise Unbundled(f"it has more than {self.most} parts")
        if isinstance(node, list):
            return [self.rewritten(part, document) for part in node]
        if not isinstance(node, dict):
            return node
        if named:
            return {name: self.rewritten(part, document) for name, part in node.items()}
        if node is not document.value and any(
            isinstance(node.get(word), str) for word in (document.id_word, "$schema")
        ):
            raise Unbundled("a part of it has an $id or a $schema of its own")
        found: dict[str, Any] = {}
        for word, said in node.items():
            if word in _REFERENCES and isinstance(said, str):
                found[word] = self._reference(word, said, document)
            elif word in ("$anchor", "$dynamicAnchor", "$recursiveAnchor") and document is not self.root:
                raise Unbundled("an anchor of another document")
            else:
                found[word] = said if word in _DATA else self.rewritten(said, document, named=word in _MAPS)
        return found

    def _reference(self, word: str, said: str, document: _Document) -> str:
        self.dynamic = self.dynamic or word != "$ref"
        if document is self.root and said.startswith("#"):
            return said
        target, _, fragment = said.partition("#")
        target = _resolved(document.base, target) if target else document.base
        if word != "$ref" or (fragment and not fragment.startswith("/")):
            raise Unbundled(f"{said[:200]!r} says more than a pointer does")
        if target and target == self.root.base:
            return f"#{fragment}"
        uri = self._by_base.get(target)
        if uri is None:
            raise Unbundled(f"{said[:200]!r} is not known here")
        if not _leads_on(self.documents[uri].value, fragment):
            raise Unbundled(f"{said[:200]!r} refers to nothing")
        return f"#/{self.shelf}/{self._name(uri)}{fragment}"

    def _name(self, uri: str) -> str:
        """The name of the document `uri`: like the URI's last word, and nothing else's."""
        if uri not in self.names:
            last = re.split("[/:]", uri.rstrip("/"))[-1].removesuffix(".json")
            stem = re.sub(r"\W+", "_", last, flags=re.ASCII).strip("_") or "schema"
            numbered = (f"{stem}_{number}" for number in count(len(self.names) + 1))
            name = next(name for name in chain([stem], numbered) if name not in self._taken)
            self.names[uri] = name
            self._taken.add(name)
            self._needed.append(uri)
        return self.names[uri]


@lru_cache(maxsize=1024)
def _resolved(base: str, reference: str) -> str:
    return urljoin(base, reference)


def _id_word(dialect: str) -> str:
    return "id" if "/draft-04/" in dialect or "/draft-03/" in dialect else "$id"


def _leads_on(node: Any, fragment: str) -> bool:
    """Whether the pointer `fragment` leads to a part of `node`."""
    for part in unquote(fragment).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
    return True
