"""Settings of the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt

from spillway.settings import Section
from spillway.worker import Worker

Count = Annotated[StrictInt, Field(gt=0)]
FOLDER = "worker-"
"""How the folder of a worker but the first begins."""


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

    def of(self, worker: Worker) -> Self:
        """Return these as `worker` has them: a folder for each, the first one's is that of a proxy alone."""
        told: dict[str, object] = {"max_waiting": max(1, worker.share(self.max_waiting))}
        if self.folder is not None and worker.number:
            told["folder"] = self.folder / f"{FOLDER}{worker.number}"
        return self.model_copy(update=told)

    def left(self, workers: int) -> list[Path]:
        """Return the folders of workers beyond `workers`, of a time when there were more."""
        if self.folder is None:
            return []
        numbered = {each: each.name.removeprefix(FOLDER) for each in self.folder.glob(f"{FOLDER}*")}
        return sorted(each for each, number in numbered.items() if number.isdecimal() and int(number) >= workers)
