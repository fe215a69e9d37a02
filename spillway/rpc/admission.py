"""Who calls, and how far a request has come: what every way into a service asks first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spillway import v1
from spillway.errors import RequestInvalid
from spillway.rpc import metadata
from spillway.rpc.call import ANONYMOUS, Call, Caller
from spillway.rpc.keys import ROUTE, KeyRing

_OURS = frozenset((metadata.HOP, metadata.ATTEMPTS_LEFT, metadata.FIRST_TOKEN_MS, metadata.TENANT))
"""Headers of a service that passes a request on."""


def admit(call: Call, headers: Mapping[str, str], keys: KeyRing | None, scope: str) -> Call:
    """Return `call` as somebody's. No key is asked for while `keys` is None.

    Raises RequestInvalid after too many hops or for a header that is no number, KeyUnknown, or ScopeMissing for a key
    without `scope`.
    """
    if keys is None and _OURS.isdisjoint(headers):
        return call
    hop = headers.get(metadata.HOP, "0")
    if not hop.isdecimal() or len(hop) > 4 or int(hop) > metadata.MAX_HOPS:
        raise _too_far()
    left = headers.get(metadata.ATTEMPTS_LEFT)
    if left is not None and (not left.isdecimal() or len(left) > 4 or not int(left)):
        raise _no_attempts()
    attempts_left = None if left is None else int(left)
    wait_ms = headers.get(metadata.FIRST_TOKEN_MS)
    if wait_ms is not None:
        if not wait_ms.isdecimal() or len(wait_ms) > 9:
            raise RequestInvalid(f"{metadata.FIRST_TOKEN_MS}: not a number from 0 to {metadata.MAX_FIRST_TOKEN_MS}")
        call = call.heard_within(int(wait_ms) / 1000)
    return replace(call, caller=_caller(headers, keys, scope), hop=int(hop), attempts_left=attempts_left)


def admit_start(call: Call, start: v1.SessionStart, caller: Caller) -> Call:
    """Return `call`, a generation of a session that `caller` opened, as somebody's.

    Raises RequestInvalid after too many hops, or for attempts left that are none.
    """
    if start.hop > metadata.MAX_HOPS:
        raise _too_far()
    if start.HasField("first_token_ms"):
        call = call.heard_within(start.first_token_ms / 1000)
    if start.tenant and (not caller.key_name or ROUTE in caller.scopes):
        caller = Caller(start.tenant, caller.key_name, caller.scopes)
    left = start.attempts_left if start.HasField("attempts_left") else None
    if left is not None and not 1 <= left <= 9999:
        raise _no_attempts()
    return Call(call.request_id, call.deadline, call.span, caller, start.hop, left, call.first_token)


def _caller(headers: Mapping[str, str], keys: KeyRing | None, scope: str) -> Caller:
    told = headers.get(metadata.TENANT, "")
    if keys is None:
        return Caller(told or ANONYMOUS)
    caller = keys.identify(headers.get(metadata.AUTHORIZATION), scope)
    if told and ROUTE in caller.scopes:  # a router speaks for its tenants; no one else may
        return Caller(told, caller.key_name, caller.scopes)
    return caller


def _no_attempts() -> RequestInvalid:
    return RequestInvalid(f"{metadata.ATTEMPTS_LEFT}: not a number from 1 to 9999")


def _too_far() -> RequestInvalid:
    return RequestInvalid(f"{metadata.HOP}: more than {metadata.MAX_HOPS} hops; do the targets form a loop?")
