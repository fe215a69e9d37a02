"""What the scripts of limit_scripts.py are given: their KEYS, and their ARGV packed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from services.cloud_proxy.limits import IN_WINDOW, Amounts, Scope


def call_key(provider: str, id: str) -> str:
    """Where the store keeps what the call `id` holds."""
    return f"spillway:limits:{{{provider}}}:call:{id}"


def proxies_key(provider: str) -> str:
    """Where the store keeps which proxies it has seen."""
    return f"spillway:limits:{{{provider}}}:proxies"


def scope_keys(provider: str, scopes: Sequence[Scope]) -> list[str]:
    """Return the KEYS of `scopes`."""
    names = [f"spillway:limits:{{{provider}}}:{quote(scope.name, safe=':')}" for scope in scopes]
    limited = [
        f"{name}:leases" for name, scope in zip(names, scopes, strict=True) if scope.limits.concurrency is not None
    ]
    return [f"{name}:counts" for name in names] + limited


def frame(slice_us: float, lease_us: float, amounts: Amounts) -> bytes:
    """Return the first of ARGV."""
    return struct.pack("<6d", slice_us, lease_us, *amounts)


def limits_of(scopes: Sequence[Scope]) -> bytes:
    """Return the limits of `scopes`, as ARGV[2]."""
    limits = [-1 if limit is None else limit for scope in scopes for limit in scope.limits]
    return struct.pack(f"<{len(limits)}d", *limits)


def amounts_of(amounts: Amounts) -> bytes:
    return struct.pack("<4d", *amounts)


def told_of(allowances: Iterable[tuple[int, int, int | None, float]]) -> bytes:
    """Return what a provider told: number of the limit, what remains of it, itself, seconds until its reset."""
    return b"".join(
        struct.pack("<4d", at, remaining, -1 if limit is None else limit, reset_s * 1e6)
        for at, remaining, limit, reset_s in allowances
        if at <= IN_WINDOW
    )
