"""The audit trail as its readers find it: what it is called, and which of its records belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

STREAM: Final = "spillway:audit"
"""Key of the Redis stream."""
FIELD: Final = b"record"
"""The one field of each of its entries: a JSON object."""

INTENT, OUTCOME, REFUSED = "intent", "outcome", "refused"
"""`phase` of a record: written before content leaves; after it left, or did not; instead, where it was refused."""
UNKNOWN = "UNKNOWN"
"""Outcome of a call whose intent alone is there: it runs yet, or its proxy died. Its content may have left."""

Record = Mapping[str, Any]


def read(entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Iterator[Record]:
    """Yield the records of a stream's entries."""
    for _, fields in entries:
        yield json.loads(fields[FIELD])


def folded(records: Iterable[Record]) -> list[Record]:
    """Return one record for each call, in the order in which they first appear: its outcome, else what is known."""
    calls: dict[str, Record] = {}
    for record in records:
        if record["phase"] == INTENT:
            calls.setdefault(record["id"], {**record, "outcome": UNKNOWN, "left": True})
        else:
            calls[record["id"]] = record
    return list(calls.values())
