"""The formulas, against numbers worked out by hand and published ones."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.doctor.architecture import architecture
from spillway.doctor.family import FAMILIES, model_of, sized
from spillway.errors import RequestInvalid

LLAMA_3_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MIXTRAL_8X7B: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("config", "parameters", "kv_token_bytes"),
    [
        pytest.param(LLAMA_3_8B, 8_030_261_248, 2 * 32 * 8 * 128 * 2, id="grouped queries"),
        pytest.param(MIXTRAL_8X7B, 46_702_792_704, 2 * 32 * 8 * 128 * 2, id="mixture of experts"),
        pytest.param(DEEPSEEK_V2_LITE, 15_706_484_224, 27 * (512 + 64) * 2, id="latent attention"),
    ],
)
def test_parameters_and_cache_are_those_of_the_published_models(
    config: dict[str, Any], parameters: int, kv_token_bytes: int
) -> None:
    read = architecture(config)
    assert read.parameters == parameters
    assert read.kv_token_bytes(2) == kv_token_bytes
    assert read.kv_bytes(4096, 2) == 4096 * kv_token_bytes
    assert read.kv_token_bytes(1) == kv_token_bytes // 2, "fp8 takes half"


def test_the_step_that_is_planned_for_is_the_widest_layer_and_two_rows_of_logits() -> None:
    read = architecture(LLAMA_3_8B)
    widest = 2 * 4096 + 3 * 14336
    assert read.activation_bytes(4096, 256, 2) == 4096 * widest * 2 + 256 * 128256 * 2 * 4


def test_heads_are_copied_where_there_are_more_gpus_than_heads_and_a_latent_always() -> None:
    llama, deepseek = architecture(LLAMA_3_8B), architecture(DEEPSEEK_V2_LITE)
    assert [llama.kv_token_bytes(2, shards=shards) for shards in (1, 2, 8, 16)] == [131072, 65536, 16384, 16384]
    assert deepseek.kv_token_bytes(2, shards=4) == deepseek.kv_token_bytes(2)


def test_embeddings_that_are_tied_count_once() -> None:
    apart, tied = architecture(LLAMA_3_8B), architecture({**LLAMA_3_8B, "tie_word_embeddings": True})
    assert apart.parameters - tied.parameters == 128256 * 4096


def test_a_window_bounds_what_its_layers_keep() -> None:
    mistral = architecture({**LLAMA_3_8B, "model_type": "mistral", "sliding_window": 4096})
    assert mistral.kv_bytes(32768, 2) == mistral.kv_bytes(4096, 2) == 4096 * 131072
    switched_off = architecture({**LLAMA_3_8B, "sliding_window": 4096, "use_sliding_window": False})
    assert switched_off.kv_bytes(8192, 2) == 8192 * 131072
    every_sixth = architecture({**LLAMA_3_8B, "sliding_window": 1024, "sliding_window_pattern": 6})
    assert every_sixth.kv_bytes(8192, 2) == (5 * 8192 + 27 * 1024) * 131072 // 32
    named = {"layer_types": ["sliding_attention", "full_attention"] * 16, "sliding_window": 1024}
    assert architecture({**LLAMA_3_8B, **named}).kv_bytes(8192, 2) == (16 * 8192 + 16 * 1024) * 131072 // 32


def test_layers_that_share_a_cache_or_keep_a_state_take_none_of_their_own() -> None:
    assert architecture({**LLAMA_3_8B, "num_kv_shared_layers": 8}).kv_token_bytes(2) == 131072 * 24 // 32
    assert architecture({**LLAMA_3_8B, "use_cla": True, "cla_share_factor": 2}).kv_token_bytes(2) == 131072 // 2
    linear = architecture({**LLAMA_3_8B, "layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8})
    assert (linear.kv_token_bytes(2), linear.stateful_layers) == (131072 // 4, 24)


@pytest.mark.parametrize(
    ("hybrid", "attending"),
    [
        ({"layers_block_type": ["mamba", "attention"] * 16}, 16),
        ({"hybrid_override_pattern": "M-*M" * 8}, 8),
        ({"attn_layer_indices": [3, 9, 27]}, 3),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, 4),
        ({"full_attention_interval": 4}, 8),
    ],
)
def test_a_hybrids_states_are_no_cache(hybrid: dict[str, Any], attending: int) -> None:
    read = architecture({**LLAMA_3_8B, **hybrid})
    assert (read.kv_token_bytes(2), read.stateful_layers) == (attending * 4096, 32 - attending)


def test_what_a_published_config_leaves_out_is_known() -> None:
    """Gemma 3 4B's, as published."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    read = architecture({"model_type": "gemma3", "text_config": {**text, "sliding_window": 1024}})
    assert read.parameters == pytest.approx(3.88e9, rel=0.01)
    assert read.kv_token_bytes(2) == 2 * 34 * 4 * 256 * 2
    assert read.kv_bytes(32768, 2) == (5 * 32768 + 29 * 1024) * 2 * 4 * 256 * 2


def test_older_names_and_a_config_inside_a_config_are_read() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
    assert architecture(gpt2).kv_token_bytes(2) == 2 * 12 * 768 * 2
    assert architecture(gpt2).parameters == pytest.approx(124e6, rel=0.01)
    assert architecture({"model_type": "llava", "text_config": LLAMA_3_8B}).kv_token_bytes(2) == 131072
    assert architecture({**gpt2, "model_type": "bert"}).kv_token_bytes(2) == 0


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [None, "many", True, -1, 1.5, 2**60])
def test_a_shape_that_cannot_be_is_refused_by_its_key(field: str, value: object) -> None:
    with pytest.raises(RequestInvalid) as refused:
        architecture({**LLAMA_3_8B, field: value})
    assert refused.value.fields[0].field == f"config.{field}"


@settings(deadline=None)
@given(
    st.sampled_from(sorted({*LLAMA_3_8B, *DEEPSEEK_V2_LITE, "layer_types", "quantization_config", "text_config"})),
    st.sampled_from(
        [None, 0, 1, 3, 10**7, 2**52, 2**60, -1, 0.5, True, "", "text", [], ["text"], [[1]], {}, {"bits": 4}]
    ),
)
def test_no_config_is_answered_with_anything_but_a_shape_or_a_refusal(key: str, value: object) -> None:
    for config in (LLAMA_3_8B, MIXTRAL_8X7B, DEEPSEEK_V2_LITE):
        with contextlib.suppress(RequestInvalid):
            assert architecture({**config, key: value}).parameters > 0


@settings(deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 200_000), st.sampled_from([LLAMA_3_8B, DEEPSEEK_V2_LITE]))
def test_a_longer_stream_never_keeps_less(tokens: int, more: int, config: dict[str, Any]) -> None:
    read = architecture({**config, "sliding_window": 1000, "sliding_window_pattern": 2})
    assert read.kv_bytes(tokens, 2) <= read.kv_bytes(tokens + more, 2)


@pytest.mark.parametrize(
    ("family", "published"),
    [
        ("1B", 1_235_814_400),
        ("3B", 3_212_749_824),
        ("8B", 8_030_261_248),
        ("14B", 14_770_033_664),
        ("32B", 32_763_876_352),
        ("70B", 70_553_706_496),
        ("8x7B", 46_702_792_704),
    ],
)
def test_the_families_have_the_parameters_they_were_published_with(family: str, published: int) -> None:
    assert FAMILIES[family][1].parameters == published


def test_a_size_is_read_as_parameters_and_bits() -> None:
    seven = sized("7B@4")
    assert seven is not None
    assert (seven.parameters, seven.weights.bytes_at(2)) == (7_000_000_000, 3_500_000_000)
    assert repr(model_of(7e9, 4)) == repr(seven) == "<Model 7B x 4 bits 7.00B x 4 bits>"
    mixture = sized("8x7b")
    assert mixture is not None and mixture.weights.bytes_at(2) == 46_702_792_704 * 2
    assert sized("owner/7B") is None


@pytest.mark.parametrize(("parameters", "bits"), [(0.0, 4.0), (float("nan"), 4.0), (float("inf"), 4.0), (7e9, 0.0)])
def test_an_impossible_size_is_refused(parameters: float, bits: float) -> None:
    with pytest.raises(RequestInvalid):
        model_of(parameters, bits)
