"""A Llama-shaped decoder in plain PyTorch, with the parameter names that inference engines load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from training.bundled_model.tokenizer import ASSISTANT, CONTEXT_TOKENS, END, PAD, SPECIALS, VOCABULARY


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; 3.1 million parameters as they stand."""

    vocabulary: int = VOCABULARY
    width: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Scale every vector of ``x`` to unit mean square."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend over ``x`` of shape (batch, length, width); the result still lacks the output projection."""
        batch, length, width = x.shape
        heads, head_width = self.shape.heads, self.shape.head_width

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, heads, head_width).transpose(1, 2)

        def rotate(y: Tensor) -> Tensor:
            first, second = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-second, first), dim=-1) * sin

        q, k, v = rotate(split(self.q_proj(x))), rotate(split(self.k_proj(x))), split(self.v_proj(x))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, width)


class FeedForward(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """SwiGLU."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention and feed-forward with residual connections."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        """One layer; given flat ``positions``, only these are carried on, as (positions, width)."""
        mixed = self.self_attn(self.input_layernorm(x), cos, sin)
        if positions is not None:
            x, mixed = x.flatten(0, 1)[positions], mixed.flatten(0, 1)[positions]
        x = x + self.self_attn.o_proj(mixed)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """The whole model; embeddings are tied to the output."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_epsilon)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.04)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    nn.init.zeros_(weight)
        wire(self)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Scores of the tokens that follow ``positions``, flat indices into ``tokens`` (batch, length)."""
        length = tokens.shape[1]
        x: Tensor = self.embed_tokens(tokens)
        half = self.shape.head_width // 2
        steps = torch.arange(half, dtype=torch.float32) / half
        angles = torch.arange(length, dtype=torch.float32)[:, None] * self.shape.rope_theta**-steps
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers[:-1]:
            x = layer(x, cos, sin)
        scores: Tensor = self.norm(self.layers[-1](x, cos, sin, positions)) @ self.embed_tokens.weight.T
        return scores


SHARED = 0.05
"""Size, per dimension, of a direction that all embeddings share at the start."""
FAST_PAIRS, STEP_BACK = 10, 0.6
"""Rotary pairs that tell neighbours apart, and the weight of each in the head that looks one token back."""
SLOW_PAIR, MATCH = 21, 3.0
"""The first rotary pair that hardly turns within a prompt, and the weight of the match on the slow ones."""
WRITE, COPY = 0.1, 0.5
"""How strongly the wired heads of the first and of the second layer write."""


@torch.no_grad()
def wire(model: Decoder) -> None:
    """Start training with a rough copying circuit, which small models otherwise find late (Olsson et al., 2022).

    The first head of layer 0 passes on the token before; two heads of layer 1 look for the place where that equals the
    current token, and write what stands there. All of it is only a starting point that training changes.
    """
    shape = model.shape
    width, head = shape.width, shape.head_width
    half = head // 2
    shared = torch.randn(width).sign() * SHARED
    model.embed_tokens.weight.add_(shared)
    direction = shared / shared.norm()

    def basis(rows: int) -> Tensor:
        free = torch.randn(rows, width)
        free -= torch.outer(free @ direction, direction)
        rows_apart: Tensor = torch.linalg.qr(free.T).Q.T
        return rows_apart

    back, match = model.layers[0].self_attn, model.layers[1].self_attn
    assert isinstance(back, Attention) and isinstance(match, Attention)
    turn = shape.rope_theta ** -(torch.arange(half) / half)
    strength = torch.where(torch.arange(half) < FAST_PAIRS, STEP_BACK, 0.0)
    first = slice(0, head)
    back.q_proj.weight[first] = torch.outer(torch.cat((strength * turn.cos(), -strength * turn.sin())), direction)
    back.k_proj.weight[first] = torch.outer(torch.cat((strength, torch.zeros(half))), direction)
    read, written = basis(head), basis(head)
    back.v_proj.weight[first] = read
    back.o_proj.weight[:, first] = WRITE * written.T
    slow = [pair + offset for offset in (0, half) for pair in range(SLOW_PAIR, half)]
    for index in (0, 1):
        rows = slice(index * head, (index + 1) * head)
        used = range(index * len(slow), (index + 1) * len(slow))
        query, key = torch.zeros(head, width), torch.zeros(head, width)
        query[slow], key[slow] = MATCH * read[list(used)], MATCH * written[list(used)]
        match.q_proj.weight[rows], match.k_proj.weight[rows] = query, key
        seen = basis(head)
        match.v_proj.weight[rows] = seen
        match.o_proj.weight[:, rows] = COPY * seen.T


def load(model: Decoder, folder: Path) -> None:
    """Take over the weights of an exported folder."""
    tensors = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({name.removeprefix("model."): value.float() for name, value in tensors.items()})


def export(model: Decoder, folder: Path) -> None:
    """Write weights (bf16) and configuration as a folder that inference engines load; files are replaced atomically."""
    shape = model.shape
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": SPECIALS.index(END),
        "pad_token_id": SPECIALS.index(PAD),
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    generation = {
        "eos_token_id": [SPECIALS.index(END), SPECIALS.index(ASSISTANT)],
        "pad_token_id": SPECIALS.index(PAD),
        "do_sample": False,
        "temperature": 0.0,
    }
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {
        f"model.{name}": value.detach().to(torch.bfloat16).contiguous() for name, value in model.named_parameters()
    }
    partial = folder / "model.safetensors.partial"
    save_file(tensors, str(partial), metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")
