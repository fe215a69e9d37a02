"""The gate before the providers: nothing leaves the site unless a router's stamp says that it may."""

from __future__ import annotations

from spillway import v1
from spillway.errors import PolicyBlocked

SENSITIVITIES = {
    "public": v1.SENSITIVITY_PUBLIC,
    "internal": v1.SENSITIVITY_INTERNAL,
    "confidential": v1.SENSITIVITY_CONFIDENTIAL,
    "restricted": v1.SENSITIVITY_RESTRICTED,
}


def admit(stamp: v1.PolicyStamp | None, *, provider: str, region: str, max_sensitivity: str) -> None:
    """Return if content under `stamp` may go to `region`; else raise PolicyBlocked. In doubt it stays.

    The router has asked the same before; this is the second lock, for a router that is wrong or is none.
    """
    if stamp is None:
        raise PolicyBlocked("the request has no policy stamp: only a router may send content to a provider")
    if not stamp.HasField("data_policy"):
        raise PolicyBlocked("the policy stamp has no data policy: a router must state where the content may go")
    policy = stamp.data_policy
    match policy.residency:
        case v1.RESIDENCY_ANY:
            pass
        case v1.RESIDENCY_REGIONS:
            if region not in policy.regions:
                raise _blocked(provider, f"its region {region} is not among those the data policy allows")
        case v1.RESIDENCY_LOCAL_ONLY:
            raise _blocked(provider, "the data policy keeps this content on the site")
        case _:
            raise _blocked(provider, "the data policy names no residency")
    if policy.sensitivity > SENSITIVITIES[max_sensitivity]:
        raise _blocked(provider, f"the content is more sensitive than {max_sensitivity}, the most it is declared for")


def _blocked(provider: str, why: str) -> PolicyBlocked:
    return PolicyBlocked(f"{provider}: {why}", resource=provider)
