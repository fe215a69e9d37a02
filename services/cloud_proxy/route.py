"""One model of one provider, ready to be called."""

from __future__ import annotations

from dataclasses import dataclass

from services.cloud_proxy.billing import OnCancel, on_cancel
from services.cloud_proxy.provider import Provider
from services.cloud_proxy.settings import ModelSettings, ProviderSettings
from services.cloud_proxy.spend import Tariff
from spillway.egress import Sensitivity


@dataclass(frozen=True, slots=True)
class Route:
    """One model of one provider. `name` is PROVIDER/MODEL."""

    name: str
    provider: ProviderSettings
    model: ModelSettings
    adapter: Provider
    tariff: Tariff

    @property
    def embeds(self) -> bool:
        return "embeddings" in self.model.capabilities

    @property
    def region(self) -> str:
        return self.model.region or self.provider.region

    @property
    def retention_days(self) -> int | None:
        """How long what is sent is kept there; None: unknown."""
        model = self.model.retention_days
        return self.provider.retention_days if model is None else model

    @property
    def max_sensitivity(self) -> Sensitivity:
        return Sensitivity[(self.model.max_sensitivity or self.provider.max_sensitivity).upper()]

    @property
    def billing_on_cancel(self) -> OnCancel:
        return self.provider.billing_on_cancel or on_cancel(self.provider.real_url)
