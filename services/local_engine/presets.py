"""What each local runtime is like, as data: where it listens, what it takes, what it tells. See docs/runtimes.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spillway import v1

PLAIN = frozenset({"temperature", "top_p", "max_tokens", "stop"})
COMMON = PLAIN | {"presence_penalty", "frequency_penalty", "seed"}
ALL = COMMON | {
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "n",
    "logit_bias",
    "stop_token_ids",
    "include_stop",
    "ignore_eos",
}
"""Every parameter of `v1.Sampling` and `v1.Stop`, by one name each."""

TEXT = (v1.CAPABILITY_TEXT_INPUT,)
JSON = (v1.CAPABILITY_JSON_SCHEMA, v1.CAPABILITY_JSON_OBJECT)
GUIDED = (*JSON, v1.CAPABILITY_REGEX, v1.CAPABILITY_GRAMMAR)


@dataclass(frozen=True, slots=True)
class Preset:
    """One kind of runtime. Paths are below its root; `parameters` it lacks are refused by name, never ignored."""

    name: str
    address: str
    """Where it listens unless told otherwise, without a path."""
    capabilities: tuple[v1.Capability.ValueType, ...]
    parameters: frozenset[str]
    health: str = "/health"
    """Answers 200 while it serves."""
    version: tuple[str, str] | None = None
    """A path, and the key of its answer that names the version."""
    base: str = "/v1"
    names: Mapping[str, str] = field(default_factory=dict)
    """What it calls a parameter that others call as we do."""
    streams: bool = True
    usage: Literal["asked", "always", "never"] = "asked"
    """When a stream tells usage: if `stream_options` ask for it, by itself, not at all."""
    prefill: str | None = None
    """The form in which an answer that was begun is continued; see spillway/openai/request.py."""
    guides: Literal["response_format", "structured_outputs", "formats", "grammar"] = "response_format"
    """How constraints beyond JSON are told: not at all, as vLLM's field, as further formats, as llama.cpp's field."""
    tool_choice: bool = True
    """It honours a tool choice other than `auto`."""
    logprobs_with_tools: bool = True
    names_tops: bool = False
    """It tells log probabilities only where a number of alternatives is named, be it 0."""
    lists: bool = True
    """Its list has every model it serves; else a model that is named is asked for all the same."""
    context: Literal["max_model_len", "props", "lm_studio", "ollama"] | None = None
    """Where it tells its context window."""
    counts: Literal["tokenize", "input_tokens"] | None = None
    """How it counts the tokens of a prompt, by its own template."""
    tells_load: Literal["vllm", "slots"] | None = None
    embeddings: bool = False
    """It has /embeddings; which model embeds is for the settings to say."""


VLLM_SERVE = Preset(
    "vllm-serve",
    "http://127.0.0.1:8000",
    (*GUIDED, v1.CAPABILITY_CHOICES, v1.CAPABILITY_LOGPROBS, *TEXT, v1.CAPABILITY_PREFILL),
    ALL,
    version=("/version", "version"),
    prefill="continue_final_message",
    guides="structured_outputs",
    context="max_model_len",
    counts="tokenize",
    tells_load="vllm",
    embeddings=True,
)
"""Tools need `--enable-auto-tool-choice` and a parser: `capabilities` of the settings say so."""

LLAMA_CPP = Preset(
    "llama-cpp",
    "http://127.0.0.1:8080",
    (*JSON, v1.CAPABILITY_GRAMMAR, v1.CAPABILITY_TOOLS, v1.CAPABILITY_LOGPROBS, *TEXT, v1.CAPABILITY_PREFILL),
    COMMON | {"top_k", "min_p", "repetition_penalty", "logit_bias", "ignore_eos"},
    version=("/props", "build_info"),
    names={"repetition_penalty": "repeat_penalty"},
    prefill="plain",
    guides="grammar",
    logprobs_with_tools=False,
    context="props",
    counts="input_tokens",
    tells_load="slots",
    embeddings=True,
)

LLAMA_CPP_PYTHON = Preset(
    "llama-cpp-python",
    "http://127.0.0.1:8000",
    (v1.CAPABILITY_JSON_OBJECT, v1.CAPABILITY_LOGPROBS, *TEXT),
    COMMON | {"top_k", "min_p", "repetition_penalty", "min_tokens", "logit_bias"},
    health="/docs",
    names={"repetition_penalty": "repeat_penalty"},
    usage="never",
    guides="grammar",
    names_tops=True,
)
"""All but its documentation waits for the answer that runs, or breaks it off: so its health is asked of that page.

A grammar with a fault in it ends its process (seen with 0.3.36), so it has that capability only where one says so.
"""

OLLAMA = Preset(
    "ollama",
    "http://127.0.0.1:11434",
    (*JSON, v1.CAPABILITY_TOOLS, v1.CAPABILITY_LOGPROBS, v1.CAPABILITY_REASONING_EFFORT, *TEXT),
    COMMON,
    health="/api/version",
    version=("/api/version", "version"),
    tool_choice=False,
    context="ollama",
    embeddings=True,
)

LM_STUDIO = Preset(
    "lm-studio",
    "http://127.0.0.1:1234",
    (v1.CAPABILITY_JSON_SCHEMA, v1.CAPABILITY_TOOLS, *TEXT),
    COMMON | {"top_k", "repetition_penalty", "logit_bias"},
    health="/v1/models",
    names={"repetition_penalty": "repeat_penalty"},
    context="lm_studio",
    embeddings=True,
)

JAN = Preset(
    "jan",
    "http://127.0.0.1:1337",
    (v1.CAPABILITY_TOOLS, *TEXT),
    COMMON,
    health="/v1/models",
)
"""It asks for a key that its user chose: `api_key_env`."""

GPT4ALL = Preset(
    "gpt4all",
    "http://127.0.0.1:4891",
    TEXT,
    frozenset({"temperature", "top_p", "min_p", "max_tokens", "n"}),
    health="/v1/models",
    streams=False,
)

TENSORRT_LLM = Preset(
    "tensorrt-llm",
    "http://127.0.0.1:8000",
    (*GUIDED, v1.CAPABILITY_TOOLS, v1.CAPABILITY_LOGPROBS, *TEXT),
    ALL,
    version=("/version", "version"),
    guides="formats",
)

MLX = Preset(
    "mlx",
    "http://127.0.0.1:8080",
    (v1.CAPABILITY_TOOLS, *TEXT),
    PLAIN | {"top_k", "min_p", "repetition_penalty", "seed", "logit_bias"},
    tool_choice=False,
    lists=False,
)

TRANSFORMERS = Preset(
    "transformers",
    "http://127.0.0.1:8000",
    (v1.CAPABILITY_TOOLS, *TEXT),
    PLAIN | {"seed", "logit_bias"},
    usage="always",
    tool_choice=False,
    lists=False,
)

OPENAI = Preset(
    "openai",
    "http://127.0.0.1:8000",
    (*JSON, v1.CAPABILITY_TOOLS, *TEXT),
    COMMON | {"n", "logit_bias"},
    health="/v1/models",
    embeddings=True,
)
"""Any other server that speaks OpenAI's chat completions."""

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        VLLM_SERVE,
        LLAMA_CPP,
        LLAMA_CPP_PYTHON,
        OLLAMA,
        LM_STUDIO,
        JAN,
        GPT4ALL,
        TENSORRT_LLM,
        MLX,
        TRANSFORMERS,
        OPENAI,
    )
}
