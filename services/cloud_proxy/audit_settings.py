"""Settings of the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from spillway.settings import Section

Count = Annotated[StrictInt, Field(gt=0)]


class AuditSettings(Section):
    """What is on record of every call. See docs/audit.md."""

    folder: Path | None = Field(
        None, description="of this proxy alone: where records wait while the store is away; absent: in memory"
    )
    max_waiting: Count = Field(100_000, description="records that wait for the store, at most")
    when_full: Literal["refuse", "drop"] = Field(
        "refuse", description="refuse: nothing leaves that cannot be put on record; drop: it leaves, and is counted"
    )
    keep_records: Count = Field(200_000, description="in the store, about; the oldest go first. A call has two")
    store_wait_s: float = Field(0.05, gt=0, description="longest a call waits for the store to have its record")
