"""Loads: how busy every target is, as this router knows it, and the places at those that declare how many they have."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from spillway.deadline import Deadline
from spillway.errors import DeadlineExceeded, TargetBusy
from spillway.worker import ALONE, Worker

from .replicas import Occupancy
from .target import Target


@dataclass(slots=True)
class Crowd:
    """The attempts of this router at one target."""

    running: int = 0
    waiting: OrderedDict[asyncio.Future[None], None] = field(default_factory=OrderedDict)
    told: int | None = None
    """Requests that the target said it has."""
    told_at: int = 0
    """Attempts of this router at that moment."""

    @property
    def in_flight(self) -> int:
        return self.running + len(self.waiting)

    def occupancy(self, concurrency: int | None) -> Occupancy:
        engine = None if self.told is None else max(0.0, float(self.told + self.in_flight - self.told_at))
        return Occupancy(self.in_flight, engine, concurrency is not None and self.running >= concurrency)


class Loads:
    """Counts attempts, hears what engines say, and hands out places. All on the event loop."""

    def __init__(self, worker: Worker = ALONE) -> None:
        """Of the places at a target `worker` has its share, one at least."""
        self._worker = worker
        self._crowds: dict[str, Crowd] = {}
        self._bounds: dict[str, int | None] = {}

    def adopt(self, targets: Iterable[Target]) -> None:
        """From now on these are the targets; those that are gone are forgotten when their last attempt has ended."""
        self._bounds = {target.name: self._bound(target) for target in targets}
        for name in list(self._crowds):
            if name not in self._bounds:
                self._crowds[name].told = None
            self._admit(name)

    def snapshot(self) -> Mapping[str, Occupancy]:
        """How busy targets are now, by name; those of which there is nothing to say are left out. Not to be kept."""
        return _Occupied(self._crowds, self._bounds)

    async def take(self, target: Target, plan: Iterable[Target], deadline: Deadline) -> None:
        """Take a place at `target` for one attempt; `give_back` it when the attempt has ended.

        Where none is free: raises TargetBusy if a target that comes later in `plan` has one, else waits for its turn.
        Raises DeadlineExceeded where that does not come in time.
        """
        name, bound = target.name, self._bound(target)
        crowd = self._crowds.get(name)
        if crowd is None:
            crowd = self._crowds[name] = Crowd()
        if bound is None or (crowd.running < bound and not crowd.waiting):
            crowd.running += 1
            return
        if any(map(self._has_room, _after(target, plan))):
            raise TargetBusy(f"all {bound} places at {name} are taken", resource=name)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        crowd.waiting[turn] = None
        try:
            async with asyncio.timeout(deadline.left()):
                await turn
        except BaseException as error:
            if turn in crowd.waiting:
                del crowd.waiting[turn]
                self._tidy(name, crowd)
            else:  # its turn had come
                self.give_back(name)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"no place at {name} became free before the deadline") from None
            raise

    def give_back(self, name: str) -> None:
        """An attempt at target `name` has ended."""
        self._crowds[name].running -= 1
        self._admit(name)

    def hear(self, names: Iterable[str], requests: int | None) -> None:
        """The engine that serves the targets `names` has so many requests; None: it is not known any more."""
        for name in names:
            crowd = self._crowds.get(name)
            if crowd is None:
                crowd = self._crowds[name] = Crowd()
            crowd.told, crowd.told_at = requests, crowd.in_flight
            self._tidy(name, crowd)

    def _admit(self, name: str) -> None:
        crowd, bound = self._crowds[name], self._bounds.get(name)
        while crowd.waiting and (bound is None or crowd.running < bound):
            turn, _ = crowd.waiting.popitem(last=False)
            crowd.running += 1  # also for one that was cancelled meanwhile: it gives it back
            if not turn.done():
                turn.set_result(None)
        self._tidy(name, crowd)

    def _has_room(self, target: Target) -> bool:
        crowd, bound = self._crowds.get(target.name), self._bound(target)
        return crowd is None or bound is None or crowd.running < bound

    def _bound(self, target: Target) -> int | None:
        return None if target.concurrency is None else max(1, self._worker.share(target.concurrency))

    def _tidy(self, name: str, crowd: Crowd) -> None:
        """Forget a target of which there is nothing to say."""
        if crowd.told is None and not crowd.in_flight:
            del self._crowds[name]

    def __repr__(self) -> str:
        busy = ", ".join(f"{name} {one.in_flight}" for name, one in self._crowds.items() if one.in_flight)
        return f"<Loads {busy or 'idle'}>"


class _Occupied(Mapping[str, Occupancy]):
    """Crowds as policy sees them. Read off when policy asks: most plans are not about who is less busy."""

    __slots__ = ("_bounds", "_crowds")

    def __init__(self, crowds: Mapping[str, Crowd], bounds: Mapping[str, int | None]) -> None:
        self._crowds, self._bounds = crowds, bounds

    def __getitem__(self, name: str) -> Occupancy:
        return self._crowds[name].occupancy(self._bounds.get(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._crowds)

    def __len__(self) -> int:
        return len(self._crowds)


def _after(target: Target, plan: Iterable[Target]) -> Iterable[Target]:
    found = False
    for one in plan:
        if found:
            yield one
        found = found or one.name == target.name
