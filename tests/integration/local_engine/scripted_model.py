"""A model that says what a test wrote: each token has one successor, so a cue in the prompt begins a script.

Its layers add nothing; what a token leads to stands in the output matrix. vLLM runs it as any other model, and samples,
guides and cuts it as it does those.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from services.local_engine.settings import BUNDLED_MODEL

HIDDEN = 256
VOCABULARY = 2176
"""The bundled tokenizer's own tokens, and room for those of scripts."""
END = "<|end|>"
TEMPLATE = """
{%- if tools -%}<|system|>{{ tools | tojson }}<|end|>{%- endif -%}
{%- for message in messages -%}
<|{{ message.role }}|>{{ message.content }}
{%- for call in message.tool_calls or [] -%}<tool_call>{{ call.function | tojson }}</tool_call>{%- endfor -%}
{%- if not loop.last or add_generation_prompt -%}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}
{{ messages[-1].content }}
{%- endif -%}
"""
"""Tools, results, thinking on and off; the last words of the prompt are those of the last message: the cue."""


def write(folder: Path, scripts: Mapping[str, Sequence[str]], template: str = TEMPLATE) -> Path:
    """Write a model whose every script (cue -> its tokens) ends the answer, and return `folder`.

    A token leads to the same one in all scripts.
    """
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        shutil.copy(BUNDLED_MODEL / name, folder / name)
    ids = _tokenizer(folder, [token for cue, tokens in scripts.items() for token in (cue, *tokens)], template)
    config = json.loads((folder / "config.json").read_text())
    config |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "num_hidden_layers": 1}
    config |= {"torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    successors = {
        ids[token]: ids[following]
        for cue, tokens in scripts.items()
        for token, following in pairwise((cue, *tokens, END))
    }
    save_file(_weights(successors, config["intermediate_size"]), folder / "model.safetensors")
    return folder


def _tokenizer(folder: Path, tokens: list[str], template: str) -> dict[str, int]:
    told = json.loads((folder / "tokenizer.json").read_text())
    ids = {**told["model"]["vocab"], **{token["content"]: token["id"] for token in told["added_tokens"]}}
    for token in dict.fromkeys(("<think>", "</think>", *tokens)):
        if token not in ids:
            ids[token] = max(ids.values()) + 1
            plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
            told["added_tokens"].append({"id": ids[token], "content": token, **plain})
    assert max(ids.values()) < VOCABULARY
    (folder / "tokenizer.json").write_text(json.dumps(told))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    (folder / "chat_template.jinja").write_text(template)
    return ids


def _weights(successors: Mapping[int, int], wide: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(0).standard_normal((VOCABULARY, HIDDEN)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    heads = np.zeros_like(tokens)
    for token, following in successors.items():
        heads[following] += tokens[token]
    layer = "model.layers.0"
    square, ones = np.zeros((HIDDEN, HIDDEN), np.float32), np.ones(HIDDEN, np.float32)
    return {
        "model.embed_tokens.weight": tokens,
        "lm_head.weight": heads,
        "model.norm.weight": ones,
        f"{layer}.input_layernorm.weight": ones.copy(),
        f"{layer}.post_attention_layernorm.weight": ones.copy(),
        **{f"{layer}.self_attn.{name}_proj.weight": square.copy() for name in "qkvo"},
        f"{layer}.mlp.gate_proj.weight": np.zeros((wide, HIDDEN), np.float32),
        f"{layer}.mlp.up_proj.weight": np.zeros((wide, HIDDEN), np.float32),
        f"{layer}.mlp.down_proj.weight": np.zeros((HIDDEN, wide), np.float32),
    }
