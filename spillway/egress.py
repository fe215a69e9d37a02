"""The egress gate: may content of this sensitivity go there? One rule, asked by every service that could send it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol


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
    @property
    def max_retention_days(self) -> int: ...
    def HasField(self, field_name: Literal["max_retention_days"]) -> bool: ...
    def ByteSize(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DataPolicy:
    """What binds the content of one request. `regions` counts with residency REGIONS only."""

    residency: Residency = Residency.UNSPECIFIED
    regions: frozenset[str] = frozenset()
    sensitivity: Sensitivity = Sensitivity.UNSPECIFIED
    max_retention_days: int | None = None
    """Longest time it may be kept where it goes; None: any time."""

    @classmethod
    def read(cls, stated: Stated) -> DataPolicy:
        """The policy that a message states."""
        if not stated.ByteSize():  # as most do
            return UNRESOLVED
        days = stated.max_retention_days if stated.HasField("max_retention_days") else None
        return cls(Residency(stated.residency), frozenset(stated.regions), Sensitivity(stated.sensitivity), days)

    def tightened(self, other: DataPolicy) -> DataPolicy:
        """Both at once: the tightest of each, only regions that both allow, and the shorter retention."""
        if other is UNRESOLVED:
            return self
        residency = max(self.residency, other.residency)
        named = [policy.regions for policy in (self, other) if policy.residency is Residency.REGIONS]
        regions = frozenset.intersection(*named) if named else frozenset[str]()
        bounds = [days for policy in (self, other) if (days := policy.max_retention_days) is not None]
        return DataPolicy(residency, regions, max(self.sensitivity, other.sensitivity), min(bounds, default=None))

    def objection(self, region: str, limit: Sensitivity, retention_days: int | None = None) -> str:
        """Why content may not leave the site for `region`, which is trusted up to `limit`; empty if it may.

        It is kept there for `retention_days`; None: nobody knows for how long.
        """
        if self.residency is Residency.LOCAL_ONLY:
            return "the content must stay on the site"
        if self.residency is Residency.REGIONS and region not in self.regions:
            return f"the content may not go to region {region}"
        if self.residency is Residency.UNSPECIFIED:
            return "no data policy was resolved, so the content stays"
        if self.sensitivity > limit:
            return f"{self.sensitivity.name.lower()} content stays on the site; {limit.name.lower()} at most may leave"
        if self.max_retention_days is not None and (retention_days is None or retention_days > self.max_retention_days):
            kept = "for an unknown time" if retention_days is None else f"{retention_days} days"
            return f"the content may be kept {self.max_retention_days} days at most; there it is kept {kept}"
        return ""


UNRESOLVED = DataPolicy()
"""Nobody has said anything: content under it stays on the site."""
