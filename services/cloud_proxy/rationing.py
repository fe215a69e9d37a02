"""Rationing: a call has its turn, is reserved for, and counts for what it uses, whatever becomes of it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from services.cloud_proxy.charge import Charge
from services.cloud_proxy.expectation import Expectation
from services.cloud_proxy.limiter import Limiter, Reservation
from services.cloud_proxy.limits import CLOSED, NOTHING, Amounts, Decision, Scope, estimate
from services.cloud_proxy.line import LINE, Line
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.route import Route
from services.cloud_proxy.scopes import closing_scope, scopes_of
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.spend import Tokens
from services.cloud_proxy.turns import Turn
from spillway import v1
from spillway.deadline import Clock
from spillway.errors import CostCap, ProviderRateLimited, SpillwayError
from spillway.rpc.call import Call


class Rationing:
    """The limits of all `providers`, for one proxy. `running`: calls at the provider, by target; `waiting`: in line."""

    def __init__(self, providers: Mapping[str, ProviderSettings], limiter: Limiter, *, clock: Clock) -> None:
        self.limiter = limiter
        self.expectation = Expectation()
        self.running: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self._clock = clock
        self._lines = {
            name: Line(clock=clock, max_waiting=provider.max_waiting, give_back=self._give_back)
            for name, provider in providers.items()
        }

    def ask(self, route: Route, tenant: str, prompt_tokens: int, sampling: v1.Sampling) -> Amounts:
        """Return what to reserve for an answer: the prompt, and as much as such answers usually take.

        While nobody knows, it is as much as the request allows, or the settings' default where it sets no bound.
        """
        provider = route.provider
        most = sampling.max_tokens if sampling.HasField("max_tokens") else None
        return estimate(
            prompt_tokens=prompt_tokens,
            max_tokens=most,
            choices=max(1, sampling.n),
            expected=self.expectation.tokens(tenant, route.name, most or provider.default_answer_tokens),
            scopes=scopes_of(provider, route.model, tenant),
        )

    @asynccontextmanager
    async def charged(
        self,
        route: Route,
        amounts: Amounts,
        exchange: Exchange,
        call: Call,
        *,
        tenant: str,
        background: bool = False,
        choices: int = 1,
    ) -> AsyncIterator[Charge]:
        """Reserve `amounts` for the block, waiting as long as the settings and the caller let.

        It is `Charge.settle` that counts what was used; left without, the block gives all back. Raises
        ProviderRateLimited, or CostCap where money is limited and the price is unknown.
        """
        scopes = scopes_of(route.provider, route.model, tenant)
        priced = any(scope.limits.nano_usd is not None for scope in scopes)
        if priced:
            amounts = amounts._replace(nano_usd=_price(route, amounts))
        self.waiting[route.name] += 1
        try:
            reservation = await self._reserve(route, scopes, amounts, call, tenant, background)
        finally:
            self.waiting[route.name] -= 1
        charge = Charge(
            self.limiter,
            self.expectation,
            route,
            tenant,
            reservation,
            exchange,
            amounts.input,
            choices,
            priced,
            self._clock(),
        )
        self.running[route.name] += 1
        try:
            yield charge
        finally:
            self.running[route.name] -= 1
            try:
                if not charge.settled:
                    await self._give_back(reservation)
            finally:
                self._lines[route.provider.name].wake()

    async def refused(self, route: Route, error: SpillwayError, exchange: Exchange) -> None:
        """The provider has refused with `error`: where it said for how long, nothing is let through until then."""
        provider = route.provider
        if error.retry_after_s and exchange.status is not None:
            scope, seconds = closing_scope(provider, route.model), min(error.retry_after_s, provider.max_closed_s)
            await self.limiter.close(provider.name, scope, seconds, error.reason)

    async def close(self) -> None:
        """End all lines."""
        for line in self._lines.values():
            await line.close()

    async def _reserve(
        self, route: Route, scopes: tuple[Scope, ...], amounts: Amounts, call: Call, tenant: str, background: bool
    ) -> Reservation:
        id, provider = uuid.uuid4().hex, route.provider
        weight = max(scope.limits.weight(amounts) for scope in scopes)
        decision, reservation = await self._lines[provider.name].take(
            lambda: self.limiter.reserve(id, provider.name, scopes, amounts),
            Turn(tenant, background, frozenset(scope.name for scope in scopes), weight),
            min(provider.max_wait_s, call.line_s),
        )
        if reservation is None:
            raise _refusal(provider.name, decision)
        return reservation

    async def _give_back(self, reservation: Reservation) -> None:
        await self.limiter.settle(reservation, NOTHING)


def _price(route: Route, amounts: Amounts) -> int:
    cost = route.tariff.cost_nano_usd(Tokens(amounts.input, amounts.output))
    if cost is None and route.provider.unknown_price == "refuse":
        raise CostCap(
            f"usd_per_day of {route.provider.name} is limited and the price of {route.name} is unknown: set"
            " models.price, or unknown_price: allow",
            resource=route.provider.name,
            metadata={"provider": route.provider.name, "setting": "usd_per_day"},
        )
    return cost or 0


def _refusal(provider: str, decision: Decision) -> ProviderRateLimited:
    of = f" of {decision.scope}" if decision.scope else ""
    told = f"its {decision.limit}{of} are used up"
    if decision.limit == CLOSED:
        told = f"it asked to be left alone{of}"
    elif decision.limit == LINE:
        told = "too many calls wait for its limits"
    elif decision.wait_s is None:
        told = f"the request alone is more than its {decision.limit}{of}"
    return ProviderRateLimited(
        f"{provider}: {told}",
        retry_after_s=decision.wait_s,
        resource=provider,
        metadata={"provider": provider, "limit": decision.limit, "scope": decision.scope or "provider"},
    )
