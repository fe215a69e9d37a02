"""The table of the template's keys: what each means, how it is read, and what it becomes. docs/template.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spillway.telemetry import names
from spillway.template.provider import refuse
from spillway.template.quantization import quantization
from spillway.template.rate import rate_limit
from spillway.template.reading import Read, seconds, secret, share, switch, text, url, variable, whole, word

SECTIONS = ("routing", "local_engine", "cloud_engine", "observability")
"""Sections of the template. `local_engine` is also one of ours: there the template's keys stand beside ours."""

METRICS = frozenset(
    {
        names.LOCAL_DISPATCHES,
        names.CLOUD_ESCALATIONS,
        names.FALLBACK_VALIDATION_FAILURES,
        names.COST_PER_TASK,
        names.ATTEMPTS,
        names.REQUEST_DURATION,
        names.FIRST_TOKEN,
        names.TOKENS,
        names.BREAKER_CHANGES,
        names.CACHE_REQUESTS,
        names.CACHE_SAVED_TOKENS,
        names.CACHE_SAVED_COST,
        names.CONFIDENCE_SCORES,
        names.INSPECTIONS,
        names.BUDGET_CHARGED,
        names.BUDGET_REFUSED,
        names.LEDGER_PENDING,
        names.LEDGER_LOST,
        names.GEN_AI_DURATION,
        names.GEN_AI_FIRST_CHUNK,
        names.GEN_AI_TOKENS,
    }
)
"""What the router measures: docs/metrics.md."""

CARRIED_OUT = ("direct", "cascade", "hedge", "draft_refine", "draft_verify")
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "local_first": {},
    "cost_optimized": {},
    "cloud_first": {"order": ["cloud", "local"]},
    "quality_first": {"order": ["cloud", "local"]},
    "local_only": {"residency": "local_only"},
    "cloud_only": {"order": ["cloud"]},
    "latency_optimized": {"strategy": "hedge"},
    **{name: {"strategy": name} for name in CARRIED_OUT},
}
"""The template's word -> settings under `router.policy`. Ours goes home first and is cheapest at that, unless told."""
LEVELS: Mapping[str, str] = {
    **{name: name for name in ("debug", "info", "warning", "error")},
    "warn": "warning",
    "critical": "error",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the template. With `to`, those settings of ours take its value as it is read."""

    path: str
    meaning: str
    becomes: str
    read: Read
    to: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Key {self.path}>"


def _direct(path: str, meaning: str, to: str, read: Read) -> Key:
    return Key(path, meaning, f"`{to}`", read, (to,))


def _engine(name: str, meaning: str, read: Read) -> Key:
    return _direct(f"local_engine.{name}", meaning, f"local_engine.vllm.{name}", read)


def _metrics(value: object) -> bool:
    if isinstance(value, list):
        if not value or not all(isinstance(name, str) and name in METRICS for name in value):
            raise ValueError(f"expected true, false, or a list of: {', '.join(sorted(METRICS))}")
        return True
    return switch(value)


def _provider(value: object) -> str:
    name = text(value).lower()
    refuse(name)
    return name


def _models(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list of models")
    return tuple(text(entry) for entry in value)


KEYS: tuple[Key, ...] = (
    Key(
        "routing.strategy",
        f"who goes first ({', '.join(name for name in STRATEGIES if name not in CARRIED_OUT)}), or how a plan is "
        f"carried out ({', '.join(CARRIED_OUT)})",
        "`router.policy.order`, `.residency` or `.strategy`; nothing for local_first and cost_optimized, which is how "
        "Spillway routes anyway",
        word(STRATEGIES),
    ),
    _direct(
        "routing.local_context_limit",
        "prompts of more tokens go to the cloud first",
        "router.policy.local_context_limit",
        whole(1),
    ),
    Key(
        "routing.fallback_max_retries",
        "further attempts after the first one failed, wherever",
        "`router.policy.max_attempts`, one more",
        whole(0, 100),
    ),
    Key(
        "routing.escalation_threshold",
        "a local answer of less confidence is replaced by the cloud's",
        "`router.policy.strategy` cascade, `router.policy.confidence_threshold`",
        share(),
    ),
    Key(
        "local_engine.model",
        "Hugging Face id or folder; with `endpoint`, what the runtime there calls it",
        "`local_engine.model`; with `endpoint`, `local_engine.runtime.model`",
        text,
    ),
    Key(
        "local_engine.endpoint",
        "a runtime on the site with an OpenAI-style API: Ollama, LM Studio, llama.cpp, vLLM",
        "`local_engine.runtime`: `kind` by port or path, else `openai`, and `address`",
        url,
    ),
    Key(
        "local_engine.quantization",
        "of the weights: a GGUF name, a width, or a method of vLLM's",
        "`quantization_bits` of the local target; a method also `local_engine.vllm.quantization`",
        quantization,
    ),
    Key(
        "local_engine.context_length",
        "context in tokens, prompt and answer together",
        "`local_engine.vllm.max_model_len` and `context_window` of the local target; with `endpoint`, "
        "`local_engine.runtime.context_window`, Ollama's `num_ctx` too",
        whole(2),
    ),
    Key(
        "local_engine.max_model_len",
        "the same, as vLLM calls it",
        "as `context_length`",
        whole(2),
    ),
    Key(
        "local_engine.max_num_seqs",
        "answers generated at once",
        "`local_engine.vllm.max_num_seqs`; with `endpoint`, `concurrency` of the local target",
        whole(1),
    ),
    _engine("max_num_batched_tokens", "tokens computed in one step", whole(1)),
    _engine("gpu_memory_utilization", "share of each GPU's memory", share(zero=False)),
    _engine("tensor_parallel_size", "GPUs that one copy of the model is spread over", whole(1)),
    Key(
        "cloud_engine.provider",
        "whose models they are",
        "an entry of `cloud_proxy.providers` with preset, key's variable and region",
        _provider,
    ),
    Key(
        "cloud_engine.model",
        "the first model asked in the cloud",
        "a model of that provider, and the first cloud target of the router",
        text,
    ),
    Key(
        "cloud_engine.fallback_models",
        "asked in this order when it fails; another provider's as PROVIDER/MODEL",
        "more models and providers, and cloud targets behind the first",
        _models,
    ),
    Key(
        "cloud_engine.endpoint",
        "where the provider is, if not at its own address",
        "`base_url` of the provider",
        url,
    ),
    Key(
        "cloud_engine.api_key_env",
        "variable that holds the key",
        "`key_env` of the provider; without it the provider's usual one, and none with `endpoint`",
        variable,
    ),
    Key("cloud_engine.api_key", "the same as `${NAME}`; a key itself is refused", "as `api_key_env`", secret),
    Key(
        "cloud_engine.region",
        "where content goes",
        "`region` of the provider and its targets; without it the provider's, else `unknown`",
        text,
    ),
    Key(
        "cloud_engine.context_length",
        "context of its models, in tokens",
        "`context_window` of the provider's models and targets; without it unknown",
        whole(2),
    ),
    Key(
        "cloud_engine.rate_limit",
        "requests, tokens or both, by time; what is not whole a minute is rounded down",
        "`limits` of the provider, per minute, for all proxies together",
        rate_limit,
    ),
    Key(
        "cloud_engine.timeout",
        "longest silence before an answer's first words",
        "`idle_s` of the provider; how long a whole answer may take is the caller's deadline",
        seconds,
    ),
    Key(
        "observability.metrics",
        "on, off, or the names of those wanted: all are recorded then",
        "`router.telemetry.metrics_listen`",
        _metrics,
    ),
    Key(
        "observability.metrics_port",
        "where Prometheus scrapes the router, on this machine; 9464 by default",
        "`router.telemetry.metrics_listen`",
        whole(1, 65_535),
    ),
    Key(
        "observability.tracing",
        "whether requests are traced whose caller does not decide",
        "`shared.telemetry.sample_ratio` 1 or 0",
        switch,
    ),
    _direct(
        "observability.otlp_endpoint",
        "OTLP/gRPC collector for spans and metrics",
        "shared.telemetry.otlp_endpoint",
        url,
    ),
    _direct(
        "observability.log_level",
        f"{', '.join(LEVELS)}; case does not matter",
        "shared.logs.level",
        word(LEVELS),
    ),
    Key(
        "observability.retention_days",
        "attempts older than so many days are deleted from the ledger",
        "`router.ledger.retention_days`; where no ledger is stated, one in a file `spillway-ledger.sqlite`",
        whole(1, 36_500),
        ("router.ledger.retention_days",),
    ),
)


def known(section: str) -> tuple[str, ...]:
    """Names of the template's keys in `section`."""
    return tuple(name for at, _, name in (key.path.partition(".") for key in KEYS) if at == section)
