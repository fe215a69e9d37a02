"""The egress gate: may content of this sensitivity go there? One rule, asked by every service that could send it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Residency(IntEnum):
    """Where content may go, from loose to tight. Numbers as in the contract."""

    UNSPECIFIED = 0
    ANY = 1
    REGIONS = 2
    LOCAL_ONLY = 3

    @classmethod
    def _missing_(cls, value: object) -> Residency:
        return cls.LOCAL_ONLY  # a word of a newer contract: in doubt it stays


class Sensitivity(IntEnum):
    """How private content is, from loose to tight. Numbers as in the contract."""

    UNSPECIFIED = 0
    PUBLIC = 1
    INTERNAL = 2
    CONFIDENTIAL = 3
    RESTRICTED = 4

    @classmethod
    def _missing_(cls, value: object) -> Sensitivity:
        return cls.RESTRICTED


class Stated(Protocol):
    """A data policy as the contract's message states it."""

    @property
    def residency(self) -> int: ...
    @property
    def sensitivity(self) -> int: ...
    @property
    def regions(self) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True)
class DataPolicy:
    """What binds the content of one request. `regions` counts with residency REGIONS only."""

    residency: Residency = Residency.UNSPECIFIED
    regions: frozenset[str] = frozenset()
    sensitivity: Sensitivity = Sensitivity.UNSPECIFIED

    @classmethod
    def read(cls, stated: Stated) -> DataPolicy:
        """The policy that a message states."""
        return cls(Residency(stated.residency), frozenset(stated.regions), Sensitivity(stated.sensitivity))

    def tightened(self, other: DataPolicy) -> DataPolicy:
        """Both at once: the tightest of each, and only regions that both allow."""
        residency = max(self.residency, other.residency)
        named = [policy.regions for policy in (self, other) if policy.residency is Residency.REGIONS]
        regions = frozenset.intersection(*named) if named else frozenset[str]()
        return DataPolicy(residency, regions, max(self.sensitivity, other.sensitivity))

    def objection(self, region: str, limit: Sensitivity) -> str:
        """Why content may not leave the site for `region`, which is trusted up to `limit`; empty if it may."""
        if self.residency is Residency.LOCAL_ONLY:
            return "the content must stay on the site"
        if self.residency is Residency.REGIONS and region not in self.regions:
            return f"the content may not go to region {region}"
        if self.residency is Residency.UNSPECIFIED:
            return "no data policy was resolved, so the content stays"
        if self.sensitivity > limit:
            return f"{self.sensitivity.name.lower()} content stays on the site; {limit.name.lower()} at most may leave"
        return ""


UNRESOLVED = DataPolicy()
"""Nobody has said anything: content under it stays on the site."""
