"""The bundled model as llama.cpp reads it: `python gguf_model.py FILE`, with a Python that has `gguf` installed."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

BUNDLED_MODEL = Path(__file__).parents[2] / "services/local_engine/bundled_model"
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def tensors(path: Path) -> dict[str, Any]:
    """Read the float arrays of a safetensors file whose numbers are all bfloat16."""
    data = path.read_bytes()
    (header,) = struct.unpack_from("<Q", data)
    described = json.loads(data[8 : 8 + header])
    described.pop("__metadata__", None)
    found = {}
    for name, told in described.items():
        begin, end = (8 + header + at for at in told["data_offsets"])
        halves = np.frombuffer(data[begin:end], dtype="<u2").astype("<u4")
        found[name] = (halves << 16).view("<f4").reshape(told["shape"])
    return found


def gguf_name(name: str) -> str:
    weight = name.removesuffix(".weight")
    if weight in WHOLE:
        return f"{WHOLE[weight]}.weight"
    layer, part = weight.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{LAYER[part]}.weight"


def interleaved(weights: Any, heads: int) -> Any:
    """Reorder a projection's rows from rotation by halves, as transformers has it, to rotation by neighbours."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write(path: str) -> None:
    config = json.loads((BUNDLED_MODEL / "config.json").read_text())
    tokenizer = json.loads((BUNDLED_MODEL / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("spillway-bundled")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])

    special = {added["id"] for added in tokenizer["added_tokens"]}
    words = {number: word for word, number in tokenizer["model"]["vocab"].items()}
    kinds = gguf.TokenType
    unused = range(len(words), config["vocab_size"])  # rows of the matrix that no word has
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # llama.cpp knows a list of these; this one splits words nearly as ours does
    writer.add_token_list([words[number] for number in range(len(words))] + [f"<|unused {at}|>" for at in unused])
    writer.add_token_types(
        [kinds.CONTROL if number in special else kinds.NORMAL for number in range(len(words))]
        + [kinds.UNUSED for _ in unused]
    )
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((BUNDLED_MODEL / "chat_template.jinja").read_text())

    for name, weights in tensors(BUNDLED_MODEL / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights = interleaved(weights, config["num_attention_heads"])
        writer.add_tensor(gguf_name(name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
