"""OpenAI's chat completions and embeddings, and every server that speaks the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import jiter

from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.key import Key
from services.cloud_proxy.limits import REQUESTS, TOKENS
from services.cloud_proxy.presets import preset_of
from services.cloud_proxy.provider import Exchange, Prepared, Reader
from services.cloud_proxy.settings import ProviderSettings
from spillway import v1
from spillway.errors import ProviderError, RequestInvalid, SpillwayError
from spillway.openai import embedding
from spillway.openai.answer import Answer
from spillway.openai.errors import duration_s, understood
from spillway.openai.request import body_of

HEADER_LIMITS = {"requests": REQUESTS, "tokens": TOKENS}
"""What `x-ratelimit-*-NAME` counts -> which limit of ours that is."""


class OpenAI:
    """Chat completions."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._preset = preset_of(settings.preset)

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        settings = self._settings
        body = body_of(
            spec,
            model,
            max_tokens_field=settings.max_tokens_field,
            extended_sampling=settings.extended_sampling,
            prefill=settings.prefill,
            stream_usage=settings.stream_usage,
            prompt_cache=settings.hints_of_prompt_cache,
        )
        return Prepared(self._path("chat/completions", model), packed(body), max(1, spec.sampling.n))

    def read(self, prepared: Prepared, exchange: Exchange) -> Reader:
        preset = self._preset
        return Answer(self._settings.name, prepared.choices, exchange, table=preset.table, shape=preset.shape)

    def prepare_embedding(self, spec: v1.EmbeddingSpec, model: str) -> Prepared:
        return Prepared(self._path("embeddings", model), packed(embedding.body_of(spec, model)))

    def read_embedding(self, body: bytes, spec: v1.EmbeddingSpec, exchange: Exchange) -> v1.EmbedResponse:
        return embedding.read_vectors(self._settings.name, body, spec, exchange, broken=ProviderError)

    def headers(self, key: Key | None) -> dict[str, str]:
        if key is None:
            return {}
        name = self._settings.key_header
        return {name: f"Bearer {key.reveal()}" if name == "authorization" else key.reveal()}

    def refusal(
        self, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
    ) -> SpillwayError:
        preset = self._preset
        told = preset.shape(body) if isinstance(body, Mapping) else body
        return understood(
            self._settings.name, status, told, headers, now=now, request_id=request_id, table=preset.table
        )

    def request_id(self, headers: Mapping[str, str]) -> str:
        return headers.get("x-request-id", "") or headers.get("apim-request-id", "")

    def allowances(self, headers: Mapping[str, str], *, now: float) -> tuple[Allowance, ...]:
        return tuple(allowances_of(headers, HEADER_LIMITS))

    def models_path(self) -> str:
        return self._versioned("models")

    def _path(self, name: str, model: str) -> str:
        """Where `name` is: Azure's dated API has it below the deployment, which is what it calls a model."""
        dated = self._settings.api_version is not None
        return self._versioned(f"deployments/{quote(model, safe='')}/{name}" if dated else name)

    def _versioned(self, path: str) -> str:
        version = self._settings.api_version
        return path if version is None else f"{path}?api-version={version}"

    def read_models(self, body: bytes) -> list[str]:
        return listed(self._settings.name, body)

    def __repr__(self) -> str:
        return f"<OpenAI {self._settings.name}>"


def packed(body: Mapping[str, object]) -> bytes:
    """Return `body` as JSON. Raises RequestInvalid where a part of it is none (NaN), or is nested too deep."""
    try:
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise RequestInvalid("holds a number that JSON does not know, or is nested too deep") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character, escaped where it came from, goes on escaped
        return json.dumps(body, separators=(",", ":")).encode()


def listed(provider: str, body: bytes) -> list[str]:
    """Return the ids of the models in `body`. Raises ProviderError for anything else."""
    try:
        return [str(model["id"]) for model in jiter.from_json(body)["data"]]
    except (ValueError, TypeError, KeyError):
        raise ProviderError(f"{provider} does not speak its wire format (models)", resource=provider) from None


def allowances_of(headers: Mapping[str, str], limits: Mapping[str, str]) -> Iterator[Allowance]:
    """What `x-ratelimit-*-NAME` says is left, for every NAME of `limits`, which tells which limit of ours that is."""
    for what, name in limits.items():
        remaining = headers.get(f"x-ratelimit-remaining-{what}", "")
        if remaining.isdecimal():
            limit = headers.get(f"x-ratelimit-limit-{what}", "")
            reset_s = duration_s(headers.get(f"x-ratelimit-reset-{what}", ""))
            yield Allowance(name, int(remaining), int(limit) if limit.isdecimal() else None, reset_s)
