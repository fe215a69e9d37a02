"""A model that reads images, with random weights: Idefics3's shape over the bundled tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.local_engine.settings import BUNDLED_MODEL

TILE = 32
PATCH = 8
SCALE = 2
TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
IMAGE_ID = 2033
TEMPLATE = """\
{%- for message in messages -%}
<|{{ message['role'] }}|>
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<image>{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""
"""Takes content as parts alone, as templates of such models do."""


def write(folder: Path, seed: int = 0) -> Path:
    """Write the model, its tokenizer, processor and template. A long image is cut into more tiles than a square one."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, Idefics3Config, LlamaConfig
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    tokenizer.add_special_tokens({"additional_special_tokens": [*TOKENS, *tiles]})
    tokenizer.chat_template = TEMPLATE
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert image == IMAGE_ID
    config = Idefics3Config(
        text_config=LlamaConfig(
            vocab_size=-(-len(tokenizer) // 64) * 64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            eos_token_id=1,
            bos_token_id=None,
            pad_token_id=0,
        ),
        vision_config=Idefics3VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=PATCH,
        ),
        scale_factor=SCALE,
        image_token_id=image,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    made: Any = AutoModelForImageTextToText
    model = made.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)  # large enough for what is seen to change what is said
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 3 * TILE},
        "max_image_size": {"longest_edge": TILE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": (TILE // PATCH // SCALE) ** 2}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder
