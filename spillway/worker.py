"""Which of the processes of one service this is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `count` processes that serve the same ports. `number` counts from 0; `run` is what all have in common."""

    number: int = 0
    count: int = 1
    run: str = ""
    folder: str = ""
    """Where each has a socket of its own; for them alone."""

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def socket(self) -> str:
        """Where this one alone is reached, as gRPC writes it; empty where it is alone."""
        return "" if self.alone else _socket(self.folder, self.number)

    @property
    def siblings(self) -> tuple[str, ...]:
        """Where the others are reached."""
        return tuple(_socket(self.folder, number) for number in range(self.count) if number != self.number)

    def share(self, limit: int) -> int:
        """What this one takes of `limit`: the shares of all are the limit. 0 for some where it is less than `count`."""
        return limit // self.count + (self.number < limit % self.count)

    def __repr__(self) -> str:
        return f"<Worker {self.number} of {self.count}>"


ALONE: Final = Worker()


def _socket(folder: str, number: int) -> str:
    return f"unix:{folder}/{number}.sock"
