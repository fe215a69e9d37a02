"""Settings of the lease that guards a runtime which takes few calls at once."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from spillway.settings import Section


class LeaseSettings(Section):
    """All engines in front of one runtime have the same, but for `wait_s` and `queue`."""

    name: str | None = Field(
        None, pattern=r"^\S{1,200}$", description="of the runtime that is guarded; absent: made of its address"
    )
    slots: int = Field(1, gt=0, le=1000, description="calls the runtime takes at once")
    ttl_s: float = Field(15.0, ge=0.5, le=600, description="a holder that is not heard of for so long has lost it")
    renew_s: float = Field(5.0, gt=0, description="how often a holder is heard of")
    cancel_s: float = Field(
        2.0, gt=0, description="kept before the end of what is held: the runtime ends a cancelled call in less"
    )
    max_hold_s: float = Field(600.0, gt=0, le=86_400, description="longest hold; a call that takes longer is cancelled")
    wait_s: float = Field(30.0, ge=0, description="longest wait for it; then TARGET_BUSY: another target may answer")
    queue: int = Field(256, ge=0, description="calls that wait here; more are TARGET_BUSY at once")
    without_store: Literal["refuse", "local"] = Field(
        "refuse",
        description="while the store is away: refuse calls, or keep apart the calls of this engine alone",
    )

    @model_validator(mode="after")
    def _is_renewed_in_time(self) -> LeaseSettings:
        if self.renew_s + self.cancel_s >= self.ttl_s:
            raise ValueError(f"renew_s and cancel_s together must be less than ttl_s, {self.ttl_s:g}")
        if self.cancel_s >= self.max_hold_s:
            raise ValueError(f"cancel_s must be less than max_hold_s, {self.max_hold_s:g}")
        return self


def runtime_name(address: str, node: str) -> str:
    """Return what a runtime at `address` (a URL, or host:port) is called by every engine in front of it.

    An address of this machine alone is told apart from that of others by the name of the `node`.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    host = parts.hostname or "localhost"
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return f"{node if _is_this_machine(host) else host}:{port}"


def _is_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
