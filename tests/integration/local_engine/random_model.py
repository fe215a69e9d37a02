"""Model folders with random weights: shapes as they are published, sizes as a test can bear them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DENSE: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
"""Grouped queries with biases, tied embeddings."""
MIXTURE: Mapping[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
LATENT: Mapping[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "hidden_size": 256,
    "intermediate_size": 704,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
LARGE: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
"""552 million parameters."""
SHAPES: Mapping[str, Mapping[str, Any]] = {"dense": DENSE, "mixture": MIXTURE, "latent": LATENT, "large": LARGE}


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model by their names in its files, with their shapes."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocabulary, hidden)
    for index in range(config["num_hidden_layers"]):
        layer = _attention(config) | _feed_forward(config, index)
        layer |= {f"{place}_layernorm.weight": (hidden,) for place in ("input", "post_attention")}
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return found


def write(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write the model's config and weights, in bfloat16; the same random block again and again, which is quick."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16", "hidden_act": "silu"}))
    block = (torch.randn(2**20) * 0.02).to(torch.bfloat16)
    weights = {}
    for name, shape in tensors(config).items():
        values = torch.Size(shape).numel()
        weights[name] = block.repeat(-(-values // len(block)))[:values].reshape(shape).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _attention(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if latent := config.get("kv_lora_rank"):
        nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        return {
            "self_attn.q_proj.weight": (heads * (nope + rope), hidden),
            "self_attn.kv_a_proj_with_mqa.weight": (latent + rope, hidden),
            "self_attn.kv_a_layernorm.weight": (latent,),
            "self_attn.kv_b_proj.weight": (heads * (nope + value), latent),
            "self_attn.o_proj.weight": (hidden, heads * value),
        }
    head = hidden // heads
    sizes = {"q": heads * head, "k": config["num_key_value_heads"] * head, "v": config["num_key_value_heads"] * head}
    found: dict[str, tuple[int, ...]] = {"self_attn.o_proj.weight": (hidden, heads * head)}
    for name, size in sizes.items():
        found[f"self_attn.{name}_proj.weight"] = (size, hidden)
        if config["model_type"] == "qwen2":
            found[f"self_attn.{name}_proj.bias"] = (size,)
    return found


def _feed_forward(config: Mapping[str, Any], index: int) -> dict[str, tuple[int, ...]]:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    if experts := config.get("num_local_experts"):
        found: dict[str, tuple[int, ...]] = {"block_sparse_moe.gate.weight": (experts, hidden)}
        for expert in range(experts):
            place = f"block_sparse_moe.experts.{expert}"
            found |= {f"{place}.{name}.weight": (wide, hidden) for name in ("w1", "w3")}
            found[f"{place}.w2.weight"] = (hidden, wide)
        return found
    experts = config.get("n_routed_experts")
    if not experts or index < config["first_k_dense_replace"]:
        return _gated("mlp", hidden, wide)
    wide = config["moe_intermediate_size"]
    found = {"mlp.gate.weight": (experts, hidden)}
    found |= _gated("mlp.shared_experts", hidden, wide * config["n_shared_experts"])
    for expert in range(experts):
        found |= _gated(f"mlp.experts.{expert}", hidden, wide)
    return found


def _gated(place: str, hidden: int, wide: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{place}.gate_proj.weight": (wide, hidden),
        f"{place}.up_proj.weight": (wide, hidden),
        f"{place}.down_proj.weight": (hidden, wide),
    }
