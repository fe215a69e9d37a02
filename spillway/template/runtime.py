"""Local runtimes as the template's `endpoint` tells them, and what a target before each can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_PLAIN = ("tools", "text_input")
_JSON = ("json_schema", "json_object")
_GUIDED = (*_JSON, "regex", "grammar")
CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "vllm": (*_GUIDED, "choices", "logprobs", "prompt_logprobs", "text_input", "token_input"),
    "vllm-serve": (*_GUIDED, "choices", "logprobs", "text_input", "prefill"),
    "llama-cpp-python": ("json_object", "logprobs", "text_input"),
    "llama-cpp": (*_JSON, "grammar", "tools", "logprobs", "text_input", "prefill"),
    "ollama": (*_JSON, "tools", "logprobs", "reasoning_effort", "text_input"),
    "lm-studio": ("json_schema", *_PLAIN),
    "jan": _PLAIN,
    "gpt4all": ("text_input",),
    "tensorrt-llm": (*_GUIDED, "tools", "logprobs", "text_input"),
    "mlx": _PLAIN,
    "transformers": _PLAIN,
    "openai": (*_JSON, *_PLAIN),
}
"""`local_engine.runtime.kind` -> what it can do with most models: docs/runtimes.md."""
EMBEDDING = ("embeddings", "token_input")
"""Of vLLM with a model that is to embed."""
_PORTS: Mapping[int, str] = {11434: "ollama", 1234: "lm-studio", 1337: "jan", 4891: "gpt4all"}
"""Ports that one runtime alone listens on by itself; 8000 and 8080 are many's."""
_NATIVE = re.compile(r"/api(/(generate|chat))?")
"""Paths of Ollama's own API: its OpenAI-style one is beside it."""


class Endpoint(NamedTuple):
    """A runtime's kind, `openai` where the address does not tell, and its address without the API's path."""

    kind: str
    address: str


def endpoint(url: str) -> Endpoint:
    """Read an `endpoint`: the runtime's root, its /v1, or a path of that API. Raises ValueError for another path."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    native = _NATIVE.fullmatch(path) is not None
    if path and not native and not path.endswith("/v1"):
        raise ValueError("expected the runtime's root, or a path that ends in /v1")
    kind = "ollama" if native else _PORTS.get(parts.port or 0, "openai")
    return Endpoint(kind, f"{parts.scheme}://{parts.netloc}{'' if native else path.removesuffix('/v1')}")


def capabilities(section: Mapping[str, Any]) -> list[str]:
    """Return what a target before the local engine of `section` can do; no more than is certain of a wrong one."""
    runtime = section.get("runtime")
    stated = runtime if isinstance(runtime, dict) else {}
    if isinstance(stated.get("capabilities"), list):
        return list(stated["capabilities"])
    kind, vllm = str(stated.get("kind", "vllm")), section.get("vllm")
    if kind == "vllm" and isinstance(vllm, dict) and vllm.get("task") == "embed":
        return list(EMBEDDING)
    return list(CAPABILITIES.get(kind, ("text_input",)))
