"""Which limits hold for a call: those of its provider, of its model there, and of its tenant there."""

from __future__ import annotations

from collections.abc import Iterator

from services.cloud_proxy.limits import UNLIMITED, Limits, Scope
from services.cloud_proxy.settings import LimitSettings, ModelSettings, ProviderSettings

PROVIDER = ""


def limits_of(settings: LimitSettings) -> Limits:
    """Return `settings` as limits; money in 1e-9 USD."""
    return Limits(
        settings.requests_per_minute,
        settings.tokens_per_minute,
        settings.input_tokens_per_minute,
        settings.output_tokens_per_minute,
        settings.concurrency,
        None if settings.usd_per_day is None else round(settings.usd_per_day * 1e9),
    )


def scopes_of(provider: ProviderSettings, model: ModelSettings, tenant: str) -> tuple[Scope, ...]:
    """Return the scopes of a call by `tenant`, the provider first. What has no limit and learns none is left out."""
    of_tenant = provider.tenant_limits.of(tenant)
    found = (*own_scopes(provider, model), Scope(f"tenant:{tenant}", limits_of(of_tenant)))
    return found[:1] + tuple(scope for scope in found[1:] if scope.learns or scope.limits != UNLIMITED)


def own_scopes(provider: ProviderSettings, *models: ModelSettings) -> tuple[Scope, ...]:
    """Return the scopes of the provider and of its `models`."""
    by_model = provider.limits_are_per == "model"
    return (
        Scope(PROVIDER, limits_of(provider.limits), not by_model),
        *(Scope(f"model:{model.name}", limits_of(model.limits), by_model) for model in models),
    )


def all_scopes(provider: ProviderSettings) -> Iterator[Scope]:
    """Every scope that `provider`'s settings name."""
    yield from own_scopes(provider, *provider.models)
    for tenant, limits in provider.tenant_limits.tenants.items():
        yield Scope(f"tenant:{tenant}", limits_of(limits))


def closing_scope(provider: ProviderSettings, model: ModelSettings) -> Scope:
    """Return what a provider that asks to be left alone means by it."""
    return own_scopes(provider, model)[provider.limits_are_per == "model"]
