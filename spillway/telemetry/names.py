"""Names of spans and attributes: an API. Operators build dashboards on them."""

from __future__ import annotations

from typing import Final

# Spans. A server span is named after its rpc; these are the others.
CLIENT_REQUEST: Final = "spillway.client"
ASK: Final = "spillway.ask"
DEMO: Final = "spillway.demo"
DECIDE: Final = "router.decide"
COUNT: Final = "router.count_tokens"
ATTEMPT: Final = "router.attempt"
VALIDATE: Final = "router.validate"
ENGINE_GENERATE: Final = "engine.generate"
PROVIDER_REQUEST: Final = "provider.request"
WATCH_LOAD: Final = "router.watch_load"
JUDGE: Final = "validator.judge"

# Attributes, OpenTelemetry's names where it has one.
RPC_SYSTEM: Final = "rpc.system"
RPC_SERVICE: Final = "rpc.service"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.grpc.status_code"
ERROR_TYPE: Final = "error.type"
REQUEST_ID: Final = "spillway.request_id"
TENANT: Final = "spillway.tenant"
TARGET: Final = "spillway.target"
ATTEMPT_NUMBER: Final = "spillway.attempt"
ROUTE_REASON: Final = "spillway.route_reason"
CACHE: Final = "spillway.cache"
CACHE_REASON: Final = "spillway.cache_reason"
QUEUE_MS: Final = "spillway.queue_ms"
DEADLINE_LEFT_MS: Final = "spillway.deadline_left_ms"
DECISION: Final = "spillway.verdict"
SIMULATED: Final = "spillway.simulated"
MODEL: Final = "gen_ai.request.model"
ANSWERED_BY: Final = "gen_ai.response.model"
PROVIDER: Final = "gen_ai.provider.name"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
