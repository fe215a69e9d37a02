"""One model of one provider, ready to be called."""

from __future__ import annotations

from dataclasses import dataclass

from services.cloud_proxy.provider import Provider
from services.cloud_proxy.settings import ModelSettings, ProviderSettings
from services.cloud_proxy.spend import Tariff


@dataclass(frozen=True, slots=True)
class Route:
    """One model of one provider. `name` is PROVIDER/MODEL."""

    name: str
    provider: ProviderSettings
    model: ModelSettings
    adapter: Provider
    tariff: Tariff
