"""What an answer would cost, before it is asked for. Nothing is sent."""

from __future__ import annotations

from collections.abc import Callable

from services.cloud_proxy.proxy import most_tokens, prompt_estimate
from services.cloud_proxy.route import Route
from services.cloud_proxy.spend import Tokens
from spillway import v1

Expected = Callable[[str, str, int], int]
"""Tenant, target and a default -> tokens that an answer usually has."""


def estimated(route: Route, spec: v1.GenerationSpec, tenant: str, expected: Expected) -> v1.CostEstimate:
    """Return what `spec` would cost by `route`: the prompt without a cache, the answer as it usually is."""
    prompt, most, tariff = prompt_estimate(spec), most_tokens(spec), route.tariff
    usual = expected(tenant, route.name, route.provider.default_answer_tokens) * max(1, spec.sampling.n)
    usual = usual if most is None else min(usual, most)
    return v1.CostEstimate(
        target=route.name,
        prompt_tokens=prompt,
        expected_completion_tokens=usual,
        max_completion_tokens=most,
        expected_cost_nano_usd=tariff.cost_nano_usd(Tokens(prompt, usual)),
        max_cost_nano_usd=None if most is None else tariff.cost_nano_usd(Tokens(prompt, most)),
        price_source=tariff.source,
        price_date=str(tariff.as_of or ""),
    )
