"""Resolution: the addresses behind the names that targets are at, looked up again and again.

Each address is a target of its own: its breaker, load, places and channel go by its name, `local@10.0.0.7:7071`. One
that comes or goes leaves the others as they are. A lookup that finds nothing, or fails, keeps the last answer, since
engines outlive their DNS server; only a name that never had an answer is down.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spillway.deadline import Clock
from spillway.logs import get_logger

from .address import Endpoint, Written, alike, stands_for_many, written
from .policy_settings import PolicyDocument, TargetSettings
from .rulebook import Rulebook
from .target import Target

log = get_logger(__name__)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the IP addresses of a host that is to be reached at a port. Raises OSError or ValueError."""

PATIENCE_S = 5.0
"""Longest a new policy waits for its names; one that takes longer is looked at again later."""


async def looked_up(host: str, port: int) -> Sequence[str]:
    """The addresses of `host`, as the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one name. `addresses` are host:port; `why` the last lookup found none, empty if it did.

    `at` is when it last found some, on the clock; None: never.
    """

    addresses: tuple[str, ...] = ()
    why: str = "it has not been looked up yet"
    at: float | None = None


class Resolution:
    """Puts rulebooks in force over what their addresses resolve to. `every_s`: time between two lookups of a name."""

    def __init__(self, every_s: float, clock: Clock, resolve: Resolve = looked_up) -> None:
        self._every_s = every_s
        self._clock = clock
        self._resolve = resolve
        self._declared: Rulebook | None = None
        self._names: Mapping[str, Written] = {}
        self._lookups: dict[str, asyncio.Task[Sequence[str]]] = {}
        self._answers: dict[str, Answer] = {}
        self.tell: Callable[[Rulebook], None] = lambda book: None
        """Told each rulebook, over the targets that there are now."""

    @property
    def answers(self) -> Mapping[str, Answer]:
        """What is known of the names in force, by address as it is declared."""
        return {address: self._answers[address] for address in self._names}

    async def adopt(self, book: Rulebook) -> Rulebook:
        """Put `book` in force, its names looked up where they are new; return it over what they resolve to."""
        names = dict(_names(book.document))
        await self._look({address: names[address] for address in names.keys() - self._answers.keys()})
        self._declared, self._names = book, names
        self._answers = {address: self._answers.get(address, Answer()) for address in names}
        return self._publish(book)

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Look every name up; what has changed is in force now."""
        if await self._look(self._names) and self._declared is not None:
            self._publish(self._declared)

    async def close(self) -> None:
        """End every lookup."""
        for lookup in self._lookups.values():
            lookup.cancel()
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)

    async def _look(self, names: Mapping[str, Written]) -> bool:
        """Look `names` up, all at once; whether what one of them resolves to has changed."""
        changed = await asyncio.gather(*(self._look_at(address, said) for address, said in names.items()))
        return any(changed)

    async def _look_at(self, address: str, said: Written) -> bool:
        known = self._answers.get(address, Answer())
        endpoints, why = said.endpoints, ""
        if said.looked_up:
            endpoints, why = await self._found(address, said.endpoints[0])
        if why:
            if why != known.why:
                log.warning("resolution.failed", address=address, why=why, kept=len(known.addresses))
            self._answers[address] = replace(known, why=why)
            return not known.addresses and why != known.why  # what is told of a target that is down
        addresses = tuple(map(str, endpoints))
        self._answers[address] = Answer(addresses, "", self._clock())
        came, gone = set(addresses) - set(known.addresses), set(known.addresses) - set(addresses)
        if came or gone:
            log.info("resolution.changed", address=address, came=sorted(came), gone=sorted(gone))
        return bool(came or gone)

    async def _found(self, address: str, endpoint: Endpoint) -> tuple[tuple[Endpoint, ...], str]:
        """Return the endpoints behind a name, or why there are none."""
        lookup = self._lookups.get(address)
        if lookup is None:  # the system's lookup cannot be ended, so a slow one is waited for and not begun again
            lookup = asyncio.create_task(_lookup(self._resolve, endpoint), name=f"lookup of {address}")
            self._lookups[address] = lookup
        done, _ = await asyncio.wait({lookup}, timeout=PATIENCE_S)
        if not done:
            return (), f"no answer within {PATIENCE_S:g} s"
        self._lookups.pop(address, None)
        try:
            hosts = alike(lookup.result())
        except (OSError, ValueError) as error:
            return (), (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        return tuple(Endpoint(host, endpoint.port) for host in hosts), "" if hosts else "it has no address"

    def _publish(self, book: Rulebook) -> Rulebook:
        over = book.over(_expanded(book, self._answers)) if self._names else book
        self.tell(over)
        return over

    def __repr__(self) -> str:
        found = sum(len(answer.addresses) for answer in self._answers.values())
        return f"<Resolution {len(self._answers)} names {found} addresses>"


def _names(document: PolicyDocument) -> Iterator[tuple[str, Written]]:
    return ((each.address, written(each.address)) for each in document.targets if _many(each))


def _many(settings: TargetSettings) -> bool:
    return stands_for_many(settings.address, settings.resolve)


def _expanded(book: Rulebook, answers: Mapping[str, Answer]) -> Iterator[Target]:
    for settings, target in zip(book.document.targets, book.declared, strict=True):
        if not _many(settings):
            yield target
        elif found := answers[target.address].addresses:
            yield from replicas(target, found)
        else:
            yield replace(target, unresolved=f"{target.address} resolves to nothing: {answers[target.address].why}")


def replicas(target: Target, addresses: Iterable[str]) -> Iterator[Target]:
    """One target for each of `addresses`, alike in all else."""
    for address in addresses:
        yield replace(target, name=f"{target.name}@{address}", address=address, replica_of=target.name)


async def _lookup(resolve: Resolve, endpoint: Endpoint) -> Sequence[str]:
    return await resolve(endpoint.host, endpoint.port)
