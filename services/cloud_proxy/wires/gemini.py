"""Google's Gemini: generateContent as a stream, and batchEmbedContents."""

from __future__ import annotations

from collections.abc import Mapping

import jiter

from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.key import Key
from services.cloud_proxy.provider import Exchange, Prepared, Reader
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.gemini_answer import GeminiAnswer, usage_of
from services.cloud_proxy.wires.gemini_refusal import refusal_of
from services.cloud_proxy.wires.gemini_request import body_of, resource_of
from services.cloud_proxy.wires.openai import packed
from spillway import embedding, v1
from spillway.errors import ConstraintUnsupported, FieldViolation, ProviderError, SpillwayError
from spillway.openai.answer import FOREIGN
from spillway.openai.request import extra_of

MODELS_PER_PAGE = 1000
"""As many as Google tells at once: no provider lists more."""


class Gemini:
    """generateContent and embeddings. Google tells nothing of what is left of its limits."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        body = body_of(spec, model, prefill=self._settings.prefill is not None)
        path = f"{resource_of(model)}:streamGenerateContent?alt=sse"
        return Prepared(path, packed(body), max(1, spec.sampling.n))

    def read(self, prepared: Prepared, exchange: Exchange) -> Reader:
        resource, _, _ = prepared.path.partition(":")
        return GeminiAnswer(self._settings.name, prepared.choices, resource, exchange)

    def prepare_embedding(self, spec: v1.EmbeddingSpec, model: str) -> Prepared:
        extra = extra_of(spec)
        if spec.HasField("dimensions"):
            extra["outputDimensionality"] = spec.dimensions
        requests = []
        for index, one in enumerate(spec.inputs):
            if one.HasField("tokens"):
                path, why = f"spec.inputs[{index}].tokens", "Gemini embeds text, not token ids"
                raise ConstraintUnsupported(f"{path}: {why}", fields=[FieldViolation(path, why)])
            content = {"parts": [{"text": one.text}]}
            requests.append({**extra, "model": f"models/{model.removeprefix('models/')}", "content": content})
        return Prepared(f"{resource_of(model)}:batchEmbedContents", packed({"requests": requests}))

    def read_embedding(self, body: bytes, spec: v1.EmbeddingSpec, exchange: Exchange) -> v1.EmbedResponse:
        name = self._settings.name
        try:
            told = jiter.from_json(body)
            exchange.usage = usage_of(told.get("usageMetadata") or {})
            if exchange.usage.HasField("prompt_tokens"):
                exchange.usage.completion_tokens = 0  # vectors are no tokens
            vectors = [v1.Embedding(values=one["values"]) for one in told["embeddings"]]
            response = v1.EmbedResponse(embeddings=vectors, usage=exchange.usage)
            embedding.require_whole(spec, response)
        except SpillwayError as error:
            raise ProviderError(f"{name}: {error.message}", resource=name) from None
        except FOREIGN:
            raise self._foreign("embeddings") from None
        return response

    def headers(self, key: Key | None) -> dict[str, str]:
        return {} if key is None else {"x-goog-api-key": key.reveal()}

    def refusal(
        self, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
    ) -> SpillwayError:
        return refusal_of(self._settings.name, status, body, headers, now=now, request_id=request_id)

    def request_id(self, headers: Mapping[str, str]) -> str:
        return ""  # the answer tells it (`responseId`), its head does not

    def allowances(self, headers: Mapping[str, str], *, now: float) -> tuple[Allowance, ...]:
        return ()

    def models_path(self) -> str:
        return f"models?pageSize={MODELS_PER_PAGE}"

    def read_models(self, body: bytes) -> list[str]:
        try:
            return [str(model["name"]).removeprefix("models/") for model in jiter.from_json(body)["models"]]
        except FOREIGN:
            raise self._foreign("models") from None

    def _foreign(self, what: str) -> ProviderError:
        name = self._settings.name
        return ProviderError(f"{name} does not speak its wire format ({what})", resource=name)

    def __repr__(self) -> str:
        return f"<Gemini {self._settings.name}>"
