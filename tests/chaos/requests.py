"""Random requests under random policies, each with a canary in it, and random faults of what answers them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from redis.asyncio import Redis

from spillway import v1
from spillway.errors import TargetDown
from spillway.testing.faults import Cut, Fault, Garbage, Refuse, Script, SlowFirst

FAULTS: tuple[Fault | None, ...] = (
    *(None,) * 8,
    Refuse(TargetDown("gone")),
    Cut(1),
    Garbage("{not json"),
    SlowFirst(0.02),
)
LONG = (*("so " * 230,) * 12, "")
"""Turns of a conversation that the small local target takes only if it is condensed."""


class Chance(Script):
    """A fault for some of the attempts."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def next(self) -> Fault | None:
        return self._rng.choice(FAULTS)


KEPT_DAYS = 30
"""For how long the cloud is declared to keep what it is sent."""


@dataclass(frozen=True)
class Asked:
    """One request and whether its content must stay."""

    canary: str
    spec: v1.GenerationSpec
    policy: v1.RoutingPolicy
    private: bool
    """No byte of it may leave the site."""
    sensitive: bool
    """Nothing of it may be kept."""


def ask(number: int, rng: random.Random) -> Asked:
    found = rng.choice(["", "", "", "flagged-", "lost-"])
    canary = f"canary-{found}{number}-{rng.getrandbits(64):016x}"
    residency = rng.choice(list(v1.Residency.values()))
    sensitivity = rng.choice(list(v1.Sensitivity.values()))
    regions = rng.choice([["us"], ["eu"], ["eu", "us"], []])
    days = rng.choice([None, None, None, 0, KEPT_DAYS - 1, KEPT_DAYS, 90])
    policy = v1.RoutingPolicy(
        category=rng.choice(list(v1.Category.values())),
        task=rng.choice(list(v1.Task.values())),
        labels=rng.choice([[], ["health"], ["nightly"]]),
        strategy=rng.choice(list(v1.Strategy.values())),
        context_policy=rng.choice(list(v1.ContextPolicy.values())),
        cache=rng.choice(list(v1.CacheMode.values())),
        delivery=v1.Delivery(mode=rng.choice(list(v1.DeliveryMode.values())), accepts_restart=rng.random() < 0.5),
        data_policy=v1.DataPolicy(
            residency=residency, sensitivity=sensitivity, regions=regions, max_retention_days=days
        ),
        inspect_input=rng.random() < 0.3,
    )
    said = [f"Tell me of {canary} now. {turn}" for turn in (LONG if rng.random() < 0.15 else ("",))]
    messages = [
        v1.Message(role=v1.ROLE_ASSISTANT if turn % 2 else v1.ROLE_USER, parts=[v1.Part(text=text)])
        for turn, text in enumerate(said)
    ]
    spec = v1.GenerationSpec(chat=v1.Chat(messages=messages), request_id=f"r{number}")
    spec.sampling.max_tokens = 24
    if rng.random() < 0.2:
        spec.constraint.json_schema = '{"type": "object"}'
    sensitive = (
        residency == v1.RESIDENCY_LOCAL_ONLY or sensitivity > v1.SENSITIVITY_INTERNAL or "health" in policy.labels
    )
    sensitive |= bool(found) and policy.inspect_input
    private = sensitive or (residency == v1.RESIDENCY_REGIONS and "us" not in regions)
    private |= days is not None and days < KEPT_DAYS
    return Asked(canary, spec, policy, private, sensitive)


async def finds(text: str) -> list[str]:
    """What the validator finds in a prompt; some it never sees the end of."""
    if "canary-lost-" in text:
        raise TargetDown("the validator died")
    return ["badge"] if "canary-flagged-" in text else []


def echoed(spec: v1.GenerationSpec) -> str:
    """The conversation back, as JSON where that is asked for."""
    text = " ".join(part.text for message in spec.chat.messages for part in message.parts)
    return json.dumps({"said": text}) if spec.HasField("constraint") else text


async def everything(url: str) -> bytes:
    """All that the store holds, keys and values."""
    client = Redis.from_url(url)
    found = b""
    async for key in client.scan_iter():
        found += key + b"\0" + (await client.dump(key) or b"")
        if await client.type(key) == b"string":
            found += await client.get(key) or b""
    await client.aclose()
    return found
