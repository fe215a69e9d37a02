"""The gate before the providers: nothing leaves the site unless a router's stamp says that it may."""

from __future__ import annotations

from services.cloud_proxy.route import Route
from spillway import v1
from spillway.egress import DataPolicy
from spillway.errors import PolicyBlocked


def admit(stamp: v1.PolicyStamp | None, route: Route) -> v1.PolicyStamp:
    """Return `stamp` if content under it may go by `route`; else raise PolicyBlocked. In doubt it stays.

    The router has asked the same before; this is the second lock, for a router that is wrong or is none.
    """
    if stamp is None:
        raise PolicyBlocked("the request has no policy stamp: only a router may send content to a provider")
    data_policy = DataPolicy.read(stamp.data_policy)
    objection = data_policy.objection(route.region, route.max_sensitivity, route.retention_days)
    if objection:
        raise PolicyBlocked(f"{route.name}: {objection}", resource=route.provider.name)
    return stamp
