"""Who exports: what every span and metric of one process has in common."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource

from spillway.settings import TelemetrySettings


def resource(service: str, settings: TelemetrySettings) -> Resource:
    """Return `service` as OpenTelemetry's semantic conventions tell it, with the instance where one is named."""
    told = {"service.name": service}
    if settings.instance is not None:
        told["service.instance.id"] = settings.instance
    return Resource(told)
