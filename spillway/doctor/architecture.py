"""What a model's config.json says of its memory: KV cache, activations, parameters.

Sources of the formulas: grouped queries, https://arxiv.org/abs/2305.13245; latent attention (MLA),
https://arxiv.org/abs/2405.04434 section 2.1; what of both vLLM stores, `vllm/v1/kv_cache_interface.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spillway.errors import FieldViolation, RequestInvalid

WIDTHS: Mapping[str, int] = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""dtype of a config -> bytes of a value."""
MOST_LAYERS = 10_000
_BY_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "num_key_value_heads": ("num_kv_heads", "multi_query_group_num", "n_head_kv"),
    "max_position_embeddings": ("n_positions", "n_ctx", "seq_length", "max_seq_len"),
    "num_local_experts": ("n_routed_experts", "num_experts", "moe_num_experts"),
}
_UNGATED = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "mpt"})
"""Kinds whose feed-forward has two matrices, not three."""
_BIASED = frozenset({"qwen2", "qwen2_moe"})
"""Kinds whose q, k and v have a bias, though their config does not say so."""
_TIED_UNLESS_TOLD = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "opt", "bloom", "cohere"})
_ENCODERS = frozenset(
    {"bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "nomic_bert", "mpnet", "deberta-v2"}
)
"""Kinds that read all of a text at once and keep no KV cache."""
_LEFT_OUT: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
    },
}
"""What published configs leave to the defaults of transformers' own classes."""
_EVERY_TOKEN = frozenset({"full_attention", "attention", "global"})
_WINDOWED = frozenset({"sliding_attention", "chunked_attention", "local"})


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps of a token: `values` numbers for each of `heads`; of the last `window` tokens, or of all."""

    heads: int
    values: int
    window: int | None = None

    def kv_values(self, tokens: int, shards: int = 1) -> int:
        """Return the numbers kept of `tokens` on each of `shards`; a head is never cut, only copied."""
        kept = tokens if self.window is None else min(tokens, self.window)
        return kept * -(-self.heads // shards) * self.values


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's shape. `context` is in tokens, None: unlimited by the model; `width`: bytes of a weight as it was made.

    `token_width`: numbers alive at once for a token that is being computed, in the widest layer. `layers` are those
    with a KV cache of their own, `depth` counts all.
    """

    kind: str
    layers: tuple[Layer, ...]
    parameters: int
    vocabulary: int
    token_width: int
    context: int | None
    width: int
    depth: int = 0
    tied: bool = False
    bits: float | None = None
    stateful_layers: int = 0

    def kv_bytes(self, tokens: int, width: float, *, shards: int = 1) -> int:
        """Return the bytes of one stream's KV cache of `tokens`, on each of `shards`, at `width` bytes a number."""
        return round(sum(layer.kv_values(tokens, shards) for layer in self.layers) * width)

    def kv_token_bytes(self, width: float, *, shards: int = 1) -> int:
        """Return the bytes one token takes in the KV cache: 2 x layers x KV heads x head size x width, or MLA's."""
        return self.kv_bytes(1, width, shards=shards)

    def activation_bytes(self, tokens: int, streams: int, width: float) -> int:
        """Return the most that is alive beside weights and cache in one step over `tokens`, of `streams` answers.

        tokens x token_width x width for the layer being computed, and two rows of logits in float32 per answer: the
        step vLLM itself profiles (`GPUModelRunner.profile_run`, `_dummy_sampler_run`).
        """
        return round(tokens * self.token_width * width) + streams * self.vocabulary * 2 * 4

    def __repr__(self) -> str:
        return f"<Architecture {self.kind} {self.depth} layers {self.parameters / 1e9:.2f}B>"


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json. Raises RequestInvalid naming the key that is missing or wrong."""
    inner = config.get("text_config") or config.get("llm_config")
    whole = {**config, **inner} if isinstance(inner, Mapping) else config
    kind = str(whole.get("model_type", "unknown"))
    shape = _Shape({**_LEFT_OUT.get(kind, {}), **whole})
    hidden, layers, vocabulary = shape.whole("hidden_size"), shape.whole("num_hidden_layers"), shape.whole("vocab_size")
    heads = shape.whole("num_attention_heads")
    if layers > MOST_LAYERS:
        raise _wrong("num_hidden_layers", f"{layers} is more than any model has")
    tied = bool(shape.config.get("tie_word_embeddings", kind in _TIED_UNLESS_TOLD))
    attention, attention_width = _attention(shape, kind, hidden, heads)
    forward = [_feed_forward(shape, kind, hidden, index) for index in range(layers)]
    kept = () if kind in _ENCODERS else _kept(shape, layers, heads, hidden)
    types = shape.types(layers)
    stateful = sum(not (one in _EVERY_TOKEN or one in _WINDOWED) for one in types)
    return Architecture(
        kind=kind,
        layers=kept,
        parameters=(
            vocabulary * hidden * (1 if tied else 2)
            + layers * (attention + 2 * hidden)
            + sum(parameters for parameters, _ in forward)
            + hidden
        ),
        vocabulary=vocabulary,
        token_width=2 * hidden + max(attention_width, *(width for _, width in forward)),
        context=shape.optional("max_position_embeddings"),
        width=_width(shape.config),
        depth=layers,
        tied=tied,
        bits=_bits(shape.config),
        stateful_layers=stateful,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    config: Mapping[str, Any]

    def optional(self, name: str) -> int | None:
        for key in (name, *_BY_OTHER_NAMES.get(name, ())):
            value = self.config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
                raise _wrong(key, f"expected a whole number, found {value!r:.60}")
            return value
        return None

    def whole(self, name: str) -> int:
        value = self.optional(name)
        if not value:
            raise _wrong(name, "is missing, and without it nothing can be told of this model's memory")
        return value

    def head(self, hidden: int, heads: int) -> int:
        return self.optional("head_dim") or hidden // heads

    def types(self, layers: int) -> Sequence[str]:
        """Return what each layer attends to: full_attention, sliding_attention, or something that keeps a state."""
        for key in ("layer_types", "layers_block_type"):
            told = self.config.get(key)
            if isinstance(told, Sequence) and not isinstance(told, str) and len(told) >= layers:
                return [str(one) for one in told[:layers]]
        if (attending := self._attending(layers)) is not None:
            return ["full_attention" if index in attending else "state" for index in range(layers)]
        window = self.optional("sliding_window")
        if not window or self.config.get("use_sliding_window") is False:
            return ["full_attention"] * layers
        every = self.optional("sliding_window_pattern") or (2 if self.config.get("model_type") == "gemma2" else 0)
        first = self.optional("max_window_layers") or 0 if self.config.get("use_sliding_window") else 0
        return [
            "full_attention" if index < first or (every and (index + 1) % every == 0) else "sliding_attention"
            for index in range(layers)
        ]

    def _attending(self, layers: int) -> frozenset[int] | None:
        """Return the layers that attend, where the others keep a state; None: it is not that kind of model."""
        pattern, indices = self.config.get("hybrid_override_pattern"), self.config.get("attn_layer_indices")
        if isinstance(pattern, str):
            return frozenset(index for index, kind in enumerate(pattern) if kind == "*")
        if isinstance(indices, Sequence):
            return frozenset(index for index in indices if isinstance(index, int))
        if period := self.optional("attn_layer_period"):
            return frozenset(range(self.optional("attn_layer_offset") or 0, layers, period))
        if interval := self.optional("full_attention_interval"):
            return frozenset(range(interval - 1, layers, interval))
        return None


def _kept(shape: _Shape, layers: int, heads: int, hidden: int) -> tuple[Layer, ...]:
    """Return the layers that have a KV cache of their own."""
    latent = shape.optional("kv_lora_rank")
    if latent:
        own = Layer(1, latent + (shape.optional("qk_rope_head_dim") or 0))
    else:
        own = Layer(_kv_heads(shape, heads), 2 * shape.head(hidden, heads))
    window = shape.optional("sliding_window") or shape.optional("attention_chunk_size")
    alone = layers - (shape.optional("num_kv_shared_layers") or 0)
    together = (shape.optional("cla_share_factor") or 1) if shape.config.get("use_cla") else 1
    kept = []
    for index, attends in enumerate(shape.types(layers)[:alone]):
        if index % together == 0 and (attends in _EVERY_TOKEN or attends in _WINDOWED):
            kept.append(Layer(own.heads, own.values, window if attends in _WINDOWED else None))
    return tuple(kept)


def _kv_heads(shape: _Shape, heads: int) -> int:
    told = shape.optional("num_key_value_heads")
    if shape.config.get("multi_query") and not shape.config.get("new_decoder_architecture"):
        return 1
    return told or heads


def _attention(shape: _Shape, kind: str, hidden: int, heads: int) -> tuple[int, int]:
    """Return the parameters of a layer's attention, and the numbers alive for a token inside it."""
    if latent := shape.optional("kv_lora_rank"):
        nope, rope = shape.whole("qk_nope_head_dim"), shape.whole("qk_rope_head_dim")
        value = shape.whole("v_head_dim")
        rank = shape.optional("q_lora_rank")
        asks = heads * (nope + rope)
        query = hidden * rank + rank + rank * asks if rank else hidden * asks
        keys = hidden * (latent + rope) + latent + latent * heads * (nope + value)
        return query + keys + heads * value * hidden, asks + latent + rope + 2 * heads * (nope + rope) + heads * value
    head, kv = shape.head(hidden, heads), _kv_heads(shape, heads)
    mixed = (heads + 2 * kv) * head
    bias = mixed if kind in _BIASED or kind in _UNGATED - {"gptj", "falcon", "mpt"} else 0
    if shape.config.get("attention_bias"):
        bias = mixed + hidden
    return hidden * mixed + heads * head * hidden + bias, mixed + heads * head


def _feed_forward(shape: _Shape, kind: str, hidden: int, index: int) -> tuple[int, int]:
    """Return the parameters of layer `index` behind its attention, and the numbers alive for a token inside it."""
    matrices = 2 if kind in _UNGATED else 3
    experts = shape.optional("num_local_experts")
    dense = index < (shape.optional("first_k_dense_replace") or 0)
    dense = dense or (bool(step := shape.optional("decoder_sparse_step")) and (index + 1) % (step or 1) != 0)
    if not experts or dense:
        wide = shape.optional("intermediate_size") or 4 * hidden
        return matrices * hidden * wide, matrices * wide
    wide = shape.optional("moe_intermediate_size") or shape.whole("intermediate_size")
    shared = (shape.optional("n_shared_experts") or 0) * wide or shape.optional("shared_expert_intermediate_size") or 0
    chosen = shape.optional("num_experts_per_tok") or 1
    parameters = matrices * hidden * (experts * wide + shared) + hidden * experts
    return parameters, chosen * (hidden + matrices * wide) + matrices * shared


def _width(config: Mapping[str, Any]) -> int:
    said = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    return WIDTHS.get(str(said).removeprefix("torch."), 2)


def _bits(config: Mapping[str, Any]) -> float | None:
    """Return the bits of a weight as the files are quantized; None where they are not, or it is not told."""
    told = config.get("quantization_config")
    if not isinstance(told, Mapping):
        return None
    for group in (told.get("config_groups") or {}).values() if isinstance(told.get("config_groups"), Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and isinstance(weights.get("num_bits"), int):
            return float(weights["num_bits"])
    for key in ("bits", "w_bit"):
        if isinstance(told.get(key), int):
            return float(told[key])
    method = str(told.get("quant_method", "")).lower()
    if told.get("load_in_4bit") or method == "awq":
        return 4.0
    if method == "mxfp4":
        return 4.25  # one byte of scale for 32 weights
    return 8.0 if told.get("load_in_8bit") or "fp8" in method else None


def _wrong(key: str, why: str) -> RequestInvalid:
    return RequestInvalid(f"config.json: {key}: {why}", fields=[FieldViolation(f"config.{key}", why)])
