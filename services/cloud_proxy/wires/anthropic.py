"""Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping

from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.key import Key
from services.cloud_proxy.provider import Exchange, Prepared, Reader
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires import anthropic_errors
from services.cloud_proxy.wires.anthropic_answer import Answer
from services.cloud_proxy.wires.anthropic_models import traits_of
from services.cloud_proxy.wires.anthropic_request import request_of
from services.cloud_proxy.wires.openai import listed, packed
from spillway import v1
from spillway.errors import ConstraintUnsupported, SpillwayError

VERSION = "2023-06-01"
"""The newer 2026-10-21 answers any temperature, top_p or top_k with 400, whatever the model."""


class Anthropic:
    """Messages."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._models = {model.name: model for model in settings.models}

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        settings, declared = self._settings, self._models.get(model)
        asked = request_of(
            spec,
            model,
            traits=traits_of(model, declared.thinking if declared else None),
            prefill=settings.prefill is not None and declared is not None and "prefill" in declared.capabilities,
            default_answer_tokens=settings.default_answer_tokens,
        )
        return Prepared("messages", packed(asked.body), headers=asked.headers)

    def read(self, prepared: Prepared, exchange: Exchange) -> Reader:
        return Answer(self._settings.name, exchange)

    def prepare_embedding(self, spec: v1.EmbeddingSpec, model: str) -> Prepared:
        raise self._embeds_nothing()

    def read_embedding(self, body: bytes, spec: v1.EmbeddingSpec, exchange: Exchange) -> v1.EmbedResponse:
        raise self._embeds_nothing()

    def headers(self, key: Key | None) -> dict[str, str]:
        headers = {"anthropic-version": VERSION}
        return headers if key is None else {**headers, "x-api-key": key.reveal()}

    def refusal(
        self, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
    ) -> SpillwayError:
        return anthropic_errors.refused(self._settings.name, status, body, headers, now=now, request_id=request_id)

    def request_id(self, headers: Mapping[str, str]) -> str:
        return headers.get("request-id", "")

    def allowances(self, headers: Mapping[str, str], *, now: float) -> tuple[Allowance, ...]:
        return tuple(anthropic_errors.allowances(headers, now=now))

    def models_path(self) -> str:
        return "models?limit=1000"

    def read_models(self, body: bytes) -> list[str]:
        return listed(self._settings.name, body)

    def _embeds_nothing(self) -> ConstraintUnsupported:
        return ConstraintUnsupported.at("spec.model", f"{self._settings.name} embeds nothing")

    def __repr__(self) -> str:
        return f"<Anthropic {self._settings.name}>"
