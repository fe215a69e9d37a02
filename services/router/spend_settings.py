"""Settings of what tenants spend. See docs/admission.md."""

from __future__ import annotations

from pydantic import Field

from spillway.settings import Section


class SpendSettings(Section):
    """How what tenants may spend is shared with other routers, on `store`."""

    look_s: float = Field(1.0, ge=0, description="age at which what is left of a budget is looked at anew")
    hold_grace_s: float = Field(
        10.0,
        ge=0,
        description="a reservation that its router does not settle ends so long after the request's deadline",
    )
