"""What one call counts for of the limits, from its reservation to its end."""

from __future__ import annotations

from dataclasses import dataclass

from services.cloud_proxy.expectation import Expectation
from services.cloud_proxy.limiter import Limiter, Reservation
from services.cloud_proxy.limits import NOTHING, Amounts, tokens_of
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.route import Route
from services.cloud_proxy.spend import Tokens
from spillway import v1

STEP_TOKENS = 256
"""An answer that is longer than was reserved for it is reserved more for, so much at once."""
TELL_S = 1.0
"""What a provider's headers say is told while the answer still runs, if it runs longer than this."""


@dataclass(slots=True)
class Charge:
    """One call by `route`; its prompt is taken for `prompt_tokens`. `began` is when it was reserved for.

    `priced`: money is limited, so what is counted is also priced.
    """

    limiter: Limiter
    expectation: Expectation
    route: Route
    tenant: str
    reservation: Reservation
    exchange: Exchange
    prompt_tokens: int
    choices: int
    priced: bool
    began: float
    told: bool = False
    settled: bool = False

    def progress(self, now: float) -> None:
        """Have what has been said counted, once it is more than was reserved for it; nothing refuses what runs."""
        reserved, said = self.reservation.amounts, tokens_of(self.exchange.said_bytes)
        news = () if self.told or now - self.began < TELL_S else self.exchange.allowances
        if said <= reserved.output and not news:
            return
        amounts = reserved
        if said > reserved.output:
            amounts = self._amounts(reserved.input, said + STEP_TOKENS)
        self.told = self.told or bool(news)
        self.limiter.grow(self.reservation, amounts, news)

    async def settle(self, cost_nano_usd: int | None, *, whole: bool) -> None:
        """Count what was used: of a `whole` answer as the provider counted, else as well as it can be known.

        `cost_nano_usd`: most that is billed; None: nothing bounds it, so that what was reserved is not given back.
        """
        self.settled, exchange = True, self.exchange
        news = () if self.told else exchange.allowances
        late_s = 0.0 if exchange.head_at is None else exchange.head_at - self.began
        await self.limiter.settle(self.reservation, self._used(cost_nano_usd, whole), news, late_s=late_s)

    def learn(self) -> None:
        """The answer is whole: it says how long answers are."""
        if self.exchange.usage is not None and self.exchange.usage.HasField("completion_tokens"):
            tokens = self.exchange.usage.completion_tokens // self.choices
            self.expectation.learn(self.tenant, self.route.name, tokens)

    def _used(self, cost_nano_usd: int | None, whole: bool) -> Amounts:
        exchange, usage = self.exchange, self.exchange.usage or v1.Usage()
        if not exchange.sent:
            return NOTHING
        if exchange.status is not None and exchange.status != 200:
            return Amounts(1)
        prompt = usage.prompt_tokens if usage.HasField("prompt_tokens") else self.prompt_tokens
        if whole and usage.HasField("completion_tokens"):
            return self._amounts(prompt, usage.completion_tokens, cost_nano_usd)
        # What some tell of an answer at its beginning is less than what they have said since.
        used = self._amounts(prompt, max(usage.completion_tokens, tokens_of(exchange.said_bytes)), cost_nano_usd)
        if whole or cost_nano_usd is not None:
            return used
        return used._replace(nano_usd=max(used.nano_usd, self.reservation.amounts.nano_usd))

    def _amounts(self, prompt: int, answer: int, cost_nano_usd: int | None = None) -> Amounts:
        if self.priced and cost_nano_usd is None:
            cost_nano_usd = self.route.tariff.cost_nano_usd(Tokens(prompt, answer))
        return Amounts(1, prompt, answer, cost_nano_usd or 0 if self.priced else 0)
