"""The gate before the providers: nothing leaves the site unless a router's stamp says that it may."""

from __future__ import annotations

from spillway import v1
from spillway.egress import DataPolicy, Sensitivity
from spillway.errors import PolicyBlocked


def admit(stamp: v1.PolicyStamp | None, *, provider: str, region: str, max_sensitivity: str) -> v1.PolicyStamp:
    """Return `stamp` if content under it may go to `region`; else raise PolicyBlocked. In doubt it stays.

    The router has asked the same before; this is the second lock, for a router that is wrong or is none.
    """
    if stamp is None:
        raise PolicyBlocked("the request has no policy stamp: only a router may send content to a provider")
    objection = DataPolicy.read(stamp.data_policy).objection(region, Sensitivity[max_sensitivity.upper()])
    if objection:
        raise PolicyBlocked(f"{provider}: {objection}", resource=provider)
    return stamp
