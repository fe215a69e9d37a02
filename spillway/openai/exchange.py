"""What became of one request: every exit path can be accounted by it."""

from __future__ import annotations

from dataclasses import dataclass, field

from spillway import v1


@dataclass(slots=True)
class Exchange:
    """What became of one request; the provider fills it in as it goes, so that every exit path can be accounted."""

    sent: bool = False
    """The provider may have seen the request."""
    status: int | None = None
    """HTTP status."""
    model: str = ""
    """The model that answers, as the provider names it."""
    provider_request_id: str = ""
    said_bytes: int = 0
    """UTF-8 bytes of the answer so far, arguments of tools included."""
    finishes: list[v1.ChoiceFinish] = field(default_factory=list)
    """How every choice ended; filled when the whole answer is there."""
    usage: v1.Usage | None = None
    """As the provider counted; absent while it has not told."""
