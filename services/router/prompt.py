"""A prompt as its target would see it: every text of it, and what nobody can read. Pure.

All of a spec is read unless it is named here, so that a field added to the contract is inspected until somebody has
thought about it: messages of every role, tool calls and results, tools with their descriptions and schemas, the
constraint, stop strings, `extra`. Parts are read one by one: what is split over two of them is not seen as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from spillway import v1

NOT_READ = frozenset(
    {
        "spillway.v1.GenerationSpec.request_id",
        "spillway.v1.GenerationSpec.session_id",
        "spillway.v1.GenerationSpec.model",
        "spillway.v1.GenerationSpec.adapter",
        "spillway.v1.EmbeddingSpec.request_id",
        "spillway.v1.EmbeddingSpec.model",
    }
)
"""Names, by which requests are told apart and targets chosen."""
UNREADABLE = {
    "spillway.v1.TokenPrompt.ids": "token ids",
    "spillway.v1.Continuation.token_ids": "token ids",
    "spillway.v1.EmbeddingTokens.ids": "token ids",
    "spillway.v1.Part.image": "images",
}
"""Content in a form that only a target reads."""
SEALED = {"spillway.v1.ProviderState.state": "a provider's state"}
"""Content that only who made it reads, and that nobody can change."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands in a spec. `texts` are each there once, none of them empty."""

    texts: tuple[str, ...]
    unreadable: tuple[str, ...]
    sealed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Prompt {len(self.texts)} texts, unreadable: {', '.join(self.unreadable) or 'nothing'}>"


def read_prompt(spec: v1.GenerationSpec | v1.EmbeddingSpec) -> Prompt:
    """Read all of `spec` that a target would see."""
    texts: dict[str, None] = {}
    unreadable: dict[str, None] = {}
    sealed: dict[str, None] = {}
    _read(spec, texts, unreadable, sealed)
    texts.pop("", None)
    return Prompt(tuple(texts), tuple(unreadable), tuple(sealed))


def _read(message: Message, texts: dict[str, None], unreadable: dict[str, None], sealed: dict[str, None]) -> None:
    for field, value in message.ListFields():
        if field.full_name in UNREADABLE:
            unreadable[UNREADABLE[field.full_name]] = None
        elif field.full_name in SEALED:
            sealed[SEALED[field.full_name]] = None
        elif field.full_name not in NOT_READ:
            for one in _each(field, value):
                if isinstance(one, Message):
                    _read(one, texts, unreadable, sealed)
                elif isinstance(one, str):
                    texts[one] = None
                elif field.full_name == "google.protobuf.Value.number_value":
                    texts[f"{one:.17g}"] = None  # a number can be a card's


def _each(field: FieldDescriptor, value: Any) -> Iterator[object]:
    """The values of a field: one, several, or keys and values of a map."""
    if not field.is_repeated:
        yield value
        return
    yield from value
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from value.values()
