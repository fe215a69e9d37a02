"""A glance at a delta's bytes: most are a text and its tokens, and no message need be made of them.

That spares a streamed chunk a tenth of what it costs the router: less by the parsing than by what is allocated for it.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from spillway import v1


def _tag(kind: type[Message], field: str, wire: int) -> int:
    """The byte before `field`, whose value is told in the given way: 0 a number, 2 so many bytes."""
    return int(kind.DESCRIPTOR.fields_by_name[field].number << 3 | wire)


_SEQUENCE: Final = _tag(v1.GenerationEvent, "sequence", 0)
_DELTA: Final = _tag(v1.GenerationEvent, "delta", 2)
_TEXT: Final = _tag(v1.Delta, "text", 2)
_TOKEN_IDS: Final = _tag(v1.Delta, "token_ids", 2)
_TOKENS: Final = _tag(v1.Delta, "tokens", 0)


def plain_text(event: bytes) -> str | None:
    """Return the text of `event`, a serialized GenerationEvent; None where there is more to it, and it is to be parsed.

    That is so unless it is a delta of the first choice with a text and the number of its tokens, with or without their
    ids, and every length and number but the event's own takes one byte: where one takes more, the sum is not right.
    """
    at = 0
    try:
        if event[0] == _SEQUENCE:
            at = 2
            while event[at - 1] & 0x80:
                at += 1
        if event[at] != _DELTA or event[at + 2] != _TEXT or at + 2 + event[at + 1] != len(event):
            return None
        end = rest = at + 4 + event[at + 3]
        if event[rest] == _TOKEN_IDS:
            rest += 2 + event[rest + 1]
        if event[rest] != _TOKENS or rest + 2 != len(event):
            return None
        return event[at + 4 : end].decode()
    except (IndexError, UnicodeDecodeError):
        return None
