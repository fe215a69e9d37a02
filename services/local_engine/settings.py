"""Settings of the local engine: its model, and how vLLM runs it."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from services.local_engine.lease_settings import LeaseSettings
from spillway.doctor.configuration import EnginePart, Share
from spillway.settings import Section, ServerSettings, ServiceSettings

BUNDLED_MODEL = Path(__file__).parent / "bundled_model"
"""The model that comes with Spillway: small, and good at customer-support messages only."""


class CpuSettings(Section):
    """Only looked at where vLLM is built for CPUs."""

    kv_cache_gib: float = Field(1.0, gt=0, description="memory of the KV cache, in GiB")
    bind: str = Field(
        "auto",
        pattern=r"^(auto|nobind|[0-9,|-]+)$",
        description="cores of the compute threads: auto, nobind, or a list as in 0-3, with | between workers",
    )
    threads: int | None = Field(None, gt=0, description="compute threads, where `bind` names no cores")


class SpeculationSettings(Section):
    """Tokens are guessed, and checked many at once: faster where few answers are made at the same time."""

    method: Literal["ngram", "draft_model"] = Field(
        description="ngram guesses what stands in the prompt already; draft_model asks a small model"
    )
    tokens: int = Field(4, gt=0, description="tokens guessed at a time")
    model: str | None = Field(None, description="draft_model: an id or a folder; its tokenizer is the large one's")
    lookup_min: int = Field(2, gt=0, description="ngram: fewest tokens that have to match")
    lookup_max: int = Field(4, gt=0, description="ngram: most tokens that are matched")

    @model_validator(mode="after")
    def _is_whole(self) -> SpeculationSettings:
        if (self.method == "draft_model") != (self.model is not None):
            raise ValueError("model: is for the method draft_model, and needed there")
        if self.lookup_min > self.lookup_max:
            raise ValueError("lookup_min: is more than lookup_max")
        return self


class AdapterSettings(Section):
    """LoRA adapters, served by name beside the model. Each place takes memory, used or not."""

    folder: Path = Field(description="adapters are loaded from below it, and from nowhere else")
    max_loaded: int = Field(4, gt=0, description="adapters loaded at once")
    max_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(16, description="largest rank of an adapter")
    load: dict[str, str] = Field({}, description="name -> path below `folder`: loaded at the start")

    @model_validator(mode="after")
    def _fits(self) -> AdapterSettings:
        if len(self.load) > self.max_loaded:
            raise ValueError(f"load: names {len(self.load)} adapters, max_loaded is {self.max_loaded}")
        return self


class FillInTheMiddleSettings(Section):
    """The tokens that frame a text and its suffix, each one token of the model."""

    prefix: str = Field(min_length=2, description="stands before the text")
    suffix: str = Field(min_length=2, description="stands before the suffix")
    middle: str | None = Field(None, min_length=2, description="stands before the answer; absent: nothing does")
    order: Literal["prefix_first", "suffix_first"] = "prefix_first"


def _is_host(text: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(text))
    return re.fullmatch(r"[\w-]+(\.[\w-]+)*", text) is not None


def _hosts(listed: frozenset[str]) -> frozenset[str]:
    for host in listed:
        if not _is_host(host):
            raise ValueError(f"{host!r}: must be a host's whole name or address, with no scheme, port or path")
    return frozenset(host.lower() for host in listed)


Hosts = Annotated[frozenset[str], AfterValidator(_hosts)]
"""Names or addresses of hosts, in small letters."""


class ImageSettings(Section):
    """Images in prompts, where the model reads them."""

    per_prompt: int = Field(4, ge=0, description="most images of one prompt; 0: the part that sees is not loaded")
    max_bytes: int = Field(10 * 2**20, gt=0, description="of one image, as it comes")
    max_pixels: int = Field(16 * 2**20, gt=0, description="of one image; 3 bytes of memory each while it is read")
    cache_gib: float = Field(
        1.0, ge=0, description="memory for images that may come again, in this process and as much in vLLM's core"
    )
    fetch_from: Hosts = Field(
        frozenset(),
        description="hosts that images are fetched from by URL; a private address must be listed itself; none: no host",
    )
    fetch_s: float = Field(5.0, gt=0, description="longest wait for one image")


class VllmSettings(Section):
    """What vLLM is told. Absent means vLLM's own default for the machine."""

    task: Literal["auto", "generate", "embed"] = Field(
        "auto", description="what the model is for; auto: as its files say; embed: vectors also of one that generates"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: the model's own; float32 for a small model on a CPU that has no bfloat16"
    )
    quantization: str | None = Field(None, description="a method vLLM knows; absent: as the model's files say")
    max_model_len: int | None = Field(None, gt=1, description="context in tokens; absent: the model's own")
    max_num_seqs: int | None = Field(None, gt=0, description="answers generated at once")
    max_num_batched_tokens: int | None = Field(
        None, gt=0, description="tokens computed in one step; absent: 4096, on CPUs 512, as long steps hold up all"
    )
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1, description="share of each GPU's memory")
    tensor_parallel_size: int = Field(1, gt=0, description="GPUs, or CPU workers, one copy of the model is spread over")
    pipeline_parallel_size: int = Field(1, gt=0, description="GPUs that the layers of one copy follow each other over")
    data_parallel_size: int = Field(1, gt=0, description="copies of the model, which share the requests")
    expert_parallel: bool = Field(False, description="a mixture of experts is spread by expert, not by matrix")
    chunked_prefill: bool | None = Field(None, description="long prompts are computed in parts, beside other answers")
    kv_cache_dtype: Literal["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] = Field(
        "auto", description="of the KV cache; fp8 holds twice as much and is a little less exact"
    )
    speculation: SpeculationSettings | None = None
    adapters: AdapterSettings | None = Field(None, description="absent: none; they cost memory and speed")
    fill_in_the_middle: FillInTheMiddleSettings | Literal["auto", "off"] = Field(
        "auto", description="how a text with a suffix is asked for; auto: by the tokens of known families"
    )
    images: ImageSettings = ImageSettings()
    split_special_tokens: bool = Field(
        True, description="the text of a chat is never read as special tokens: nobody writes another's turn"
    )
    tool_parser: str | None = Field(
        None, description="vLLM's parser of the model's tool calls: hermes, llama3_json, ...; absent: no tools"
    )
    reasoning_parser: str | None = Field(
        None, description="vLLM's parser of the model's reasoning: qwen3, deepseek_r1, ...; absent: it is text"
    )
    enforce_eager: bool | None = Field(None, description="no compilation; absent: none on CPUs, to start sooner")
    prefix_caching: bool = True
    interactive_share: float = Field(
        0.1, ge=0, lt=1, description="share of the answers at once that background ones leave to interactive ones"
    )
    seed: int = 0
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "error", description="of vLLM's own logs; its warnings are mostly notes to its developers"
    )
    cpu: CpuSettings = CpuSettings()


RuntimeKind = Literal[
    "vllm",
    "vllm-serve",
    "llama-cpp",
    "llama-cpp-python",
    "ollama",
    "lm-studio",
    "jan",
    "gpt4all",
    "tensorrt-llm",
    "mlx",
    "transformers",
    "openai",
]
RuntimeCapability = Literal[
    "json_schema",
    "json_object",
    "regex",
    "grammar",
    "choices",
    "tools",
    "images",
    "logprobs",
    "reasoning_effort",
    "text_input",
    "prefill",
    "embeddings",
]


class RuntimeSettings(Section):
    """What runs the model: vLLM in this process, or a runtime that runs by itself (docs/runtimes.md)."""

    kind: RuntimeKind = Field("vllm", description="`vllm` runs in this process; all others are called over HTTP")
    address: str | None = Field(None, description="http://host:port; absent: where that runtime listens by itself")
    model: str | None = Field(
        None, min_length=1, description="as the runtime calls it; absent: the only one that it lists"
    )
    api_key_env: str | None = Field(None, description="environment variable that holds the key the runtime asks for")
    context_window: int | None = Field(
        None, gt=1, description="tokens, prompt and answer together; absent: as the runtime tells, else unknown"
    )
    capabilities: frozenset[RuntimeCapability] | None = Field(
        None, description="what it can do with this model; absent: what that kind of runtime can do with most"
    )
    fetch_from: Hosts = Field(
        frozenset(), description="hosts whose images' URLs it is sent, to fetch them itself; none: no host"
    )
    connect_timeout_s: float = Field(2.0, gt=0)
    request_timeout_s: float = Field(5.0, gt=0, description="longest wait for all but answers: health, lists, counts")
    health_s: float = Field(2.0, gt=0, description="time between two looks at its health")
    silence_s: float = Field(120.0, gt=0, description="longest silence before an answer's first token")
    idle_s: float = Field(30.0, gt=0, description="longest silence between two tokens")
    num_ctx: int | None = Field(None, gt=1, description="Ollama alone: the context that the model is loaded with")
    keep_alive: str | None = Field(
        None, description="Ollama alone: how long the model stays loaded after a request; 5m, 24h, -1 for ever"
    )

    @property
    def in_process(self) -> bool:
        return self.kind == "vllm"

    @field_validator("address")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http://... or https://...")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no user, password or query: a key comes from api_key_env")
        return url.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> RuntimeSettings:
        told = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if self.in_process and (others := sorted(told - {"kind"})):
            raise ValueError(f"{', '.join(others)}: for a runtime that runs by itself; `kind: vllm-serve` is one")
        if {"num_ctx", "keep_alive"} & told and "fetch_from" in told:
            raise ValueError("fetch_from: Ollama's own API, which num_ctx and keep_alive need, takes no URLs")
        if self.kind != "ollama" and (others := sorted({"num_ctx", "keep_alive"} & told)):
            raise ValueError(f"{', '.join(others)}: for `kind: ollama` alone")
        if "embeddings" in (self.capabilities or ()) and (others := sorted({"num_ctx", "keep_alive"} & told)):
            raise ValueError(f"{', '.join(others)}: not for a model that embeds")
        return self


class MachineSettings(Section):
    """Who shares this machine: made from `local_engines`, not written by hand."""

    engine: str = Field(description="which one this is")
    engines: dict[str, EnginePart]


class LocalEngineSettings(ServiceSettings):
    """Section `local_engine` of the configuration."""

    server: ServerSettings = ServerSettings(listen="127.0.0.1:7071")
    model: str = Field(
        str(BUNDLED_MODEL), min_length=1, description="a Hugging Face id or a local folder; default: the bundled one"
    )
    served_name: str | None = Field(None, description="the name requests may use; absent: made from `model`")
    target: str = Field("local", description="what answers call this engine")
    region: str = Field("site", description="where its content stays")
    max_tokens: int | None = Field(None, gt=0, description="of an answer that names none; absent: what the context has")
    merge_window_ms: float = Field(20.0, ge=0, le=1000, description="longest time a delta after the first is held back")
    messages_per_s: float = Field(
        600.0, gt=0, description="messages of all streams together; more streams are merged more, up to 100 ms"
    )
    idle_s: float = Field(120.0, gt=0, description="an engine with work that reports nothing for so long is dead")
    runtime: RuntimeSettings = RuntimeSettings()
    vllm: VllmSettings = VllmSettings()
    lease: LeaseSettings | None = Field(
        None, description="for a runtime that takes few calls at once; needs a store; absent: none"
    )
    tier: Literal["small", "large"] | None = Field(
        None, description="of `local_engines`: what the router takes it for, where it lists no local target"
    )
    share: Share = Field(Share(), description="of `local_engines`: what it gets of the machine")
    machine: MachineSettings | None = None

    @model_validator(mode="after")
    def _shares_with_somebody(self) -> LocalEngineSettings:
        if self.machine is None and (self.share != Share() or self.tier is not None):
            raise ValueError("share, tier: are for the engines that `local_engines` names")
        return self

    @property
    def name(self) -> str:
        """What the model is called here."""
        if self.served_name:
            return self.served_name
        if not self.runtime.in_process:
            return self.runtime_model or self.runtime.kind
        if self.model == str(BUNDLED_MODEL):
            return "bundled"
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model

    @property
    def runtime_model(self) -> str | None:
        """What a runtime that runs by itself calls the model; None: the only one it lists."""
        return self.runtime.model or (self.model if self.model != str(BUNDLED_MODEL) else None)

    @property
    def names(self) -> frozenset[str]:
        """What a request may call the model."""
        own = self.model if self.runtime.in_process else self.runtime_model
        return frozenset({self.name, self.target, own or self.name})
