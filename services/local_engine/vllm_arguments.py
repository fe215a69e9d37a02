"""What vLLM's engine is made with, from the settings. Absent settings are left to vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from services.local_engine import model_source
from services.local_engine.settings import LocalEngineSettings, SpeculationSettings
from spillway.doctor.fit import BATCHED_TOKENS, SMALL_WEIGHTS_BYTES

RUNNERS = {"auto": "auto", "generate": "generate", "embed": "pooling"}
"""Task of the settings -> vLLM's word."""
PENALTIES = "services.local_engine.vllm_penalties:EarlierPenalties"


def engine_arguments(settings: LocalEngineSettings, *, cpu: bool) -> dict[str, Any]:
    """Return what vLLM's AsyncEngineArgs are made with, on a CPU or a GPU."""
    vllm = settings.vllm
    batched = vllm.max_num_batched_tokens or BATCHED_TOKENS["cpu" if cpu else "gpu"]
    arguments: dict[str, Any] = {
        "model": settings.model,
        "served_model_name": settings.name,
        "runner": RUNNERS[vllm.task],
        "dtype": _dtype(settings) if cpu else vllm.dtype,
        "quantization": vllm.quantization,
        "max_num_batched_tokens": max(batched, vllm.max_num_seqs or 0),
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "pipeline_parallel_size": vllm.pipeline_parallel_size,
        "data_parallel_size": vllm.data_parallel_size,
        "enable_expert_parallel": vllm.expert_parallel,
        "enforce_eager": cpu if vllm.enforce_eager is None else vllm.enforce_eager,
        "enable_prefix_caching": vllm.prefix_caching,
        "kv_cache_dtype": vllm.kv_cache_dtype,
        # What the contract has no part for is not loaded either.
        "limit_mm_per_prompt": {"image": vllm.images.per_prompt, "video": 0, "audio": 0},
        "mm_processor_cache_gb": vllm.images.cache_gib,
        "scheduling_policy": "priority",
        "seed": vllm.seed,
        "otlp_traces_endpoint": settings.telemetry.otlp_endpoint,
        "disable_log_stats": True,  # of vLLM's own log lines; reports come all the same
        "use_tqdm_on_load": False,
    }
    stated = {
        "max_model_len": vllm.max_model_len,
        "max_num_seqs": vllm.max_num_seqs,
        "enable_chunked_prefill": vllm.chunked_prefill,
        "reasoning_parser": vllm.reasoning_parser,
        "speculative_config": None if vllm.speculation is None else speculative_config(vllm.speculation),
    }
    arguments |= {name: value for name, value in stated.items() if value is not None}
    if (adapters := vllm.adapters) is not None:
        # All that are loaded have a slot: vLLM evicts none by itself. Its code for CPUs answers a request without an
        # adapter with what is in the last slot (vLLM's pull request 48421): there that one stays empty.
        slots = adapters.max_loaded + cpu
        arguments |= {
            "enable_lora": True,
            "max_loras": slots,
            "max_cpu_loras": slots,
            "max_lora_rank": adapters.max_rank,
        }
    if cpu:
        arguments["kv_cache_memory_bytes"] = round(vllm.cpu.kv_cache_gib * 2**30)
        if vllm.speculation is None:  # with it vLLM takes none; on GPUs it has another sampler, with other seams
            arguments["logits_processors"] = [PENALTIES]
    return arguments


def pooling(arguments: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Return `arguments` for a model that pools: it samples nothing, and may read every input in one piece.

    Caching of prefixes and prefill in parts are for those alone that read forward: vLLM knows which do, and dies where
    it is told otherwise.
    """
    told = dict(arguments)
    for name in ("logits_processors", "speculative_config"):
        told.pop(name, None)
    for name in ("enable_prefix_caching", "enable_chunked_prefill"):
        if told.get(name):
            del told[name]
    return {**told, "max_num_batched_tokens": max(told["max_num_batched_tokens"], context)}


def speculative_config(speculation: SpeculationSettings) -> dict[str, Any]:
    """Return vLLM's speculative_config."""
    config: dict[str, Any] = {"method": speculation.method, "num_speculative_tokens": speculation.tokens}
    if speculation.method == "ngram":
        return {
            **config,
            "prompt_lookup_min": speculation.lookup_min,
            "prompt_lookup_max": speculation.lookup_max,
        }
    return {**config, "model": speculation.model}


def _dtype(settings: LocalEngineSettings) -> str:
    """Return the dtype on a CPU: one without bfloat16 instructions computes a small model faster in float32."""
    if settings.vllm.dtype != "auto" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return settings.vllm.dtype
    return "float32" if 0 < model_source.weights_bytes(settings.model) <= SMALL_WEIGHTS_BYTES else "auto"
