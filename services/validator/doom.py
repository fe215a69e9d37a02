"""A schema asked of a value that is still arriving: can anything that may follow satisfy it?

Every schema that applies to an open value is a claim on it, which falls as soon as what has arrived contradicts it. It
takes its owner with it: through `allOf`, `$ref` and the parts of a value at once, through `anyOf` and `oneOf` with the
last alternative. When the claim on the whole falls, no completion can satisfy the schema.

What a keyword says is decided as a value arrives (types, names, how strings begin, how many items), when the value ends
(by the compiled library), or not before the end of the whole: it errs towards hope.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.validator.document import pointer
from services.validator.fragments import Fragments, TooMuch
from services.validator.prefix import HEAD_CHARS, Kind
from services.validator.weight import MAX_WEIGHT
from spillway.records import referred

_LATE: Final = frozenset(
    {
        *("required", "minProperties", "propertyNames", "dependentRequired", "dependencies", "dependentSchemas"),
        *("minItems", "uniqueItems", "contains", "minContains", "maxContains", "enum", "const"),
        *("not", "oneOf", "if", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    }
)
"""What is said of a container by its end alone."""
_SILENT: Final = frozenset(
    {"type", "title", "description", "default", "examples", "$comment", "allOf", "anyOf", "$ref"}
)
"""What an ended scalar need not be asked again."""
_REPLACING: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
"""Drafts in which `$ref` stands alone, whatever is beside it."""
MAX_CLAIMS: Final = MAX_WEIGHT
"""Claims on the values that are open at once; an answer that makes more is judged at its end alone."""
MAX_WORK: Final = 100_000
"""Claims in all, and looks at them as names and items come, likewise: a tenth of a second of work, or little more."""
GLANCES: Final = 8
"""So many looks at how a text begins, or at a value of `enum`, take as long as one claim."""
NODE_CHARS: Final = 64
"""Characters of a text that count as one node of the value."""
MAX_STEPS: Final = 500_000
"""Schema nodes times nodes of the value, over all that the compiled library is asked, likewise."""
_ABSENT: Final = {
    "draft-03": frozenset({"const", "propertyNames", "prefixItems"}),
    "draft-04": frozenset({"const", "propertyNames", "prefixItems"}),
    "draft-06": frozenset({"prefixItems"}),
    "draft-07": frozenset({"prefixItems"}),
    "2019-09": frozenset({"prefixItems"}),
}
"""Keywords read here that a draft does not know, and so passes over."""


@dataclass(slots=True, eq=False)
class Claim:
    """One subschema, at `place` of the root's, applied to one value. `others` are the alternatives beside it."""

    schema: Any
    place: str
    owner: Claim | None
    others: list[Claim] | None = None
    fallen: bool = False

    def fall(self) -> None:
        """It cannot be satisfied any more."""
        claim: Claim | None = self
        while claim is not None and not claim.fallen:
            claim.fallen = True
            if claim.others is not None and not all(other.fallen for other in claim.others):
                return
            claim = claim.owner


@dataclass(slots=True, eq=False)
class Open:
    """A value that has begun."""

    kind: Kind
    claims: list[Claim]
    step: str | int | None = None
    """Its name or index in what it is part of."""
    parts: int = 0
    key: str = ""
    first: int = 0
    """Its number among all nodes, in the order in which they begin."""
    looks: int = 0
    """What it takes to ask all claims about a part: one each, and one for every pattern of names."""


@dataclass(slots=True)
class Doom:
    """Listens to the reading of one value, and knows when it is doomed: `why`, and in which part (`where`)."""

    root: Any
    fragments: Fragments
    array: tuple[str, ...] | None = None
    """Where the array is whose items are asked in full, as `spillway.records` finds it; None: nowhere."""
    records: int = 0
    """Items of it that are whole and accepted."""
    records_end: int = 0
    """Characters up to the end of the last of them."""
    why: str = ""
    where: str = ""
    _whole: Claim = field(init=False)
    _open: list[Open] = field(default_factory=list)
    _claims: int = 0
    _work: int = 0
    _steps: int = 0
    _begun: int = 0
    _text_end: int = 0
    _replaces: bool = field(init=False)
    _absent: frozenset[str] = field(init=False)
    _ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._whole = Claim({}, "", None)
        dialect = str(self.root.get("$schema", "")) if isinstance(self.root, Mapping) else ""
        self._replaces = any(draft in dialect for draft in _REPLACING)
        self._absent = next((words for draft, words in _ABSENT.items() if draft in dialect), frozenset())
        self._ids = frozenset({"id", "$id"} if "draft-04" in dialect else {"$id"})

    @property
    def sealed(self) -> bool:
        """Nothing that follows can satisfy the schema."""
        return self._whole.fallen

    def begin(self, kind: Kind) -> None:
        if self._text_end:
            self._accept(self._text_end)
        self._begun += 1
        opened = Open(kind, [], first=self._begun)
        if not self._open:
            self._open.append(opened)
            self._claim(self.root, "", self._whole, opened)
            return
        outer = self._open[-1]
        opened.step = outer.key if outer.kind == "object" else outer.parts
        if outer.kind == "array":
            outer.parts += 1
        self._spend(outer.looks)
        self._open.append(opened)
        for claim in outer.claims:
            if not claim.fallen:
                parts = (
                    _property(claim, outer.key, self.fragments) if outer.kind == "object" else _item(claim, outer.parts)
                )
                for schema, place in parts:
                    self._claim(schema, place, claim, opened)
        if outer.kind == "array":
            for claim in outer.claims:
                if _above(claim.schema, "maxItems", outer.parts):
                    self._fall(claim, f"has more than {claim.schema['maxItems']} items", opened=outer)

    def key(self, name: str) -> None:
        outer = self._open[-1]
        outer.key, outer.parts = name, outer.parts + 1
        nodes = 1 + len(name) // NODE_CHARS
        self._begun += nodes - 1
        self._spend(outer.looks)
        for claim in outer.claims:
            if claim.fallen:
                continue
            if _above(claim.schema, "maxProperties", outer.parts):
                self._fall(claim, f"has more than {claim.schema['maxProperties']} properties")
            elif any(schema is False for schema, _ in _property(claim, name, self.fragments)):
                self._fall(claim, f"{name[:60]!r} is not allowed here")
            elif "propertyNames" in claim.schema and (
                said := self._objection(f"{claim.place}/propertyNames", claim.schema["propertyNames"], name, nodes)
            ):
                self._fall(claim, f"{name[:60]!r} is no name of a property here: {said}")

    def text(self, head: str, length: int) -> None:
        claims = self._open[-1].claims
        self._spend(len(claims) // GLANCES)
        for claim in claims:
            if claim.fallen:
                continue
            if _above(claim.schema, "maxLength", length):
                self._fall(claim, f"is longer than {claim.schema['maxLength']} characters")
            elif (told := self._allowed(claim.schema)) is not None and not any(
                isinstance(one, str) and len(one) >= length and one[:HEAD_CHARS].startswith(head) for one in told
            ):
                self._fall(claim, "begins like none of the values that are allowed")

    def end(self, value: Any, at: int) -> None:
        if self._text_end:
            self._accept(self._text_end)
        ended, record = self._open[-1], self._record()
        if isinstance(value, str):
            self._begun += len(value) // NODE_CHARS
        container = ended.kind in ("object", "array")
        for claim in reversed(ended.claims):
            if claim.fallen:
                continue
            if not (record or (_LATE & claim.schema.keys() if container else claim.schema.keys() - _SILENT)):
                continue
            if record and not self.fragments.known(claim.place, claim.schema):
                raise TooMuch
            if said := self._objection(claim.place, claim.schema, value, 1 + self._begun - ended.first):
                self._fall(claim, said)
        self._open.pop()
        self._claims -= len(ended.claims)
        if record and isinstance(value, str):
            self._text_end = at  # what follows tells whether its last quote was meant to be its end
        elif record:
            self._accept(at)

    def _objection(self, place: str, schema: Any, value: Any, nodes: int) -> str:
        """Return what `schema`, which is at `place`, has against `value`, which has `nodes`."""
        self._steps += self.fragments.weight(place, schema) * nodes
        if self._steps > MAX_STEPS:
            raise TooMuch
        return self.fragments.objection(place, schema, value)

    def _allowed(self, schema: Mapping[str, Any]) -> Sequence[Any] | None:
        """Return the values that `schema` lists, which are to be looked through."""
        found = _candidates(schema)
        self._spend(len(found or ()) // GLANCES)
        return found

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise TooMuch

    def _record(self) -> bool:
        """Whether the value that began last, and is still open, is an item of the array."""
        if self.array is None or len(self._open) != len(self.array) + 2 or self._open[-2].kind != "array":
            return False
        return tuple(opened.step for opened in self._open[1:-1]) == self.array

    def _accept(self, at: int) -> None:
        """Count the record that ends `at`, unless something spoke against it."""
        self._text_end = 0
        if not self.sealed:
            self.records += 1
            self.records_end = at

    def _claim(self, schema: Any, place: str, owner: Claim, opened: Open) -> None:
        """Have `schema` apply to the value that has just begun."""
        self._apply(Claim(schema, place, owner), opened)

    def _apply(self, claim: Claim, opened: Open) -> None:
        told = claim.schema
        if told is False:
            self._fall(claim, "no value is allowed here")
        if not isinstance(told, Mapping):
            return
        self._claims += 1
        if self._claims > MAX_CLAIMS:
            raise TooMuch
        self._spend(1)
        if self.fragments.refers and claim.place and any(isinstance(told.get(word), str) for word in self._ids):
            raise TooMuch  # it changes what references mean
        if self._absent & told.keys():
            claim.schema = told = {word: said for word, said in told.items() if word not in self._absent}
        opened.claims.append(claim)
        opened.looks += 1 + len(_map(told, "patternProperties"))
        if isinstance(reference := told.get("$ref"), str):
            found = referred(self.root, reference)
            if found is not None:
                self._claim(*found, claim, opened)
            elif self.array is not None:
                raise TooMuch  # nobody would vouch for records
            if self._replaces:
                claim.schema = {}
                return
        if not _fits(told.get("type"), opened.kind):
            self._fall(claim, f"is a {opened.kind}, must be {told['type']}")
            return
        if (allowed := self._allowed(told)) is not None and not any(_kind(one) == opened.kind for one in allowed):
            self._fall(claim, f"is a {opened.kind}, which is none of the values that are allowed")
            return
        for number, part in enumerate(_list(told, "allOf")):
            self._claim(part, f"{claim.place}/allOf/{number}", claim, opened)
        for word in ("anyOf", "oneOf"):
            others: list[Claim] = []
            others += [
                Claim(part, f"{claim.place}/{word}/{number}", claim, others)
                for number, part in enumerate(_list(told, word))
            ]
            for other in others:
                self._apply(other, opened)

    def _fall(self, claim: Claim, why: str, *, opened: Open | None = None) -> None:
        claim.fall()
        if self.sealed and not self.why:
            last = self._open if opened is None else self._open[: self._open.index(opened) + 1]
            self.why, self.where = why, pointer([one.step for one in last if one.step is not None])

    def __repr__(self) -> str:
        return f"<Doom {'sealed' if self.sealed else 'open'}, {self._claims} claims>"


def _property(claim: Claim, name: str, fragments: Fragments) -> Iterator[tuple[Any, str]]:
    """Yield the schemas that `claim` has for the property `name`, and where they are."""
    told, known = claim.schema, False
    if name in (named := _map(told, "properties")):
        known = True
        yield named[name], f"{claim.place}/properties{pointer([name])}"
    for pattern, schema in _map(told, "patternProperties").items():
        match fragments.matches(pattern, name):
            case None:
                known = True  # nobody knows: hope
            case True:
                known = True
                yield schema, f"{claim.place}/patternProperties{pointer([pattern])}"
    if not known and "additionalProperties" in told:
        yield told["additionalProperties"], f"{claim.place}/additionalProperties"


def _item(claim: Claim, number: int) -> Iterator[tuple[Any, str]]:
    """Yield the schemas that `claim` has for item `number`, from 1, and where they are."""
    told, index = claim.schema, number - 1
    items = told.get("items")
    first, rest, word = _list(told, "prefixItems"), items, "items"
    start = "prefixItems"
    if isinstance(items, list):
        first, rest, word, start = items, told.get("additionalItems"), "additionalItems", "items"
    if index < len(first):
        yield first[index], f"{claim.place}/{start}/{index}"
    elif rest is not None:
        yield rest, f"{claim.place}/{word}"


def _fits(wanted: Any, kind: Kind) -> bool:
    if wanted is None:
        return True
    names = wanted if isinstance(wanted, list) else [wanted]
    return kind in names or (kind == "number" and "integer" in names)


def _candidates(schema: Mapping[str, Any]) -> Sequence[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    allowed = schema.get("enum")
    return allowed if isinstance(allowed, list) else None


def _kind(value: Any) -> Kind:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _above(schema: Mapping[str, Any], word: str, count: int) -> bool:
    limit = schema.get(word)
    return isinstance(limit, int | float) and count > limit


def _map(schema: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    found = schema.get(word)
    return found if isinstance(found, Mapping) else {}


def _list(schema: Mapping[str, Any], word: str) -> Sequence[Any]:
    found = schema.get(word)
    return found if isinstance(found, list) else ()
