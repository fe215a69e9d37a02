"""LoRA adapters with random weights, in the folders that PEFT writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HIDDEN, LAYERS = 256, 4
"""Of the bundled model; its queries and values are as wide as it is."""


def write(
    folder: Path, *, seed: int = 0, rank: int = 4, scale: float = 0.3, hidden: int = HIDDEN, layers: int = LAYERS
) -> Path:
    """Write an adapter of the queries and values, strong enough to change what is said."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    told: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(told))
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            place = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            weights[f"{place}.lora_A.weight"] = torch.randn(rank, hidden, generator=draw) * scale
            weights[f"{place}.lora_B.weight"] = torch.randn(hidden, rank, generator=draw) * scale
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
