"""The key of an answer: everything that could have made it another one, hashed.

All of a request counts unless it is named here, so that a field added to the contract is part of the key until somebody
has thought about it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from google.protobuf.message import Message

from spillway import v1
from spillway.rpc.call import Caller

from .plan import Plan
from .reading import tell_data_policy
from .target import Target

FORMAT = b"1"
"""Of the key and of what is kept under it; an answer of another format is never looked at."""
SPEC_LEFT_OUT = frozenset({"request_id", "session_id", "coalescing", "priority", "prompt_cache"})
"""Fields of a spec that say who asks and how the answer travels, not what it is."""
POLICY_LEFT_OUT = frozenset(
    {"cache", "delivery", "validation", "data_policy", "context_policy", "inspect_input", "judgements"}
)
"""Fields of a routing policy that do not count; of the last five what is in force counts instead."""
_IN_ANY_ORDER = ("labels", "allowed_targets", "denied_targets")


def cache_key(spec: v1.GenerationSpec, policy: v1.RoutingPolicy, plan: Plan, caller: Caller, epoch: bytes) -> str:
    """Return the key of the answer to this request, in the store's words."""
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    _clear(asked, SPEC_LEFT_OUT)
    wished = v1.RoutingPolicy()
    wished.CopyFrom(policy)
    _clear(wished, POLICY_LEFT_OUT)
    for name in _IN_ANY_ORDER:
        words = getattr(wished, name)
        words[:] = sorted(set(words))
    wished.data_policy.CopyFrom(tell_data_policy(plan.facts.data_policy))
    wished.validation = v1.Validation.ValueType(plan.validation)
    wished.judgements[:] = plan.judgements
    wished.context_policy = v1.ContextPolicy.ValueType(plan.context)
    parts = [
        FORMAT,
        epoch,
        plan.policy_revision.encode(),
        caller.tenant.encode(),
        wished.SerializeToString(deterministic=True),
        asked.SerializeToString(deterministic=True),
    ]
    return f"spillway:cache:{_digest(parts)}"


def epoch_of(targets: Iterable[Target]) -> bytes:
    """What is served, as part of every key: with another model behind a target, the last one's answers are gone."""
    served = {f"{one.called}\0{one.model}\0{one.quantization_bits}".encode() for one in targets}
    return _digest(sorted(served)).encode()


def _clear(message: Message, names: Iterable[str]) -> None:
    for name in names:
        message.ClearField(name)


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.blake2b(digest_size=32)
    for part in parts:
        found.update(struct.pack(">Q", len(part)))  # so that nothing can pass from one part to the next
        found.update(part)
    return found.hexdigest()
