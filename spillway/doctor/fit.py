"""Whether a model fits a machine, at which context, and for how many streams at once: arithmetic alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from spillway.doctor.architecture import WIDTHS
from spillway.doctor.machine import Machine
from spillway.doctor.weights import Model
from spillway.template.quantization import quantization

GIB = 2**30
RUNTIME_BYTES = GIB
"""A margin for what a worker holds besides: its libraries, and on a GPU the CUDA context and graphs."""
SMALL_WEIGHTS_BYTES = 2**30
"""A folder with no more is computed in float32 on a CPU without bfloat16 instructions, where that is faster."""
UNLIMITED = 2**22
"""Tokens looked at for a model whose config names no longest context."""
SHORTEST = 512
"""Tokens; a context with less is none."""
KV_CACHE_DTYPES = r"auto|float32|float16|bfloat16|(?:fp8|int8|int4|nvfp4)\w*"
"""Pattern of the names whose width is known; vLLM has more."""
_BLOCK = {"gpu": 16, "cpu": 128}
"""Tokens that vLLM keeps together: a stream takes whole blocks."""
BATCHED_TOKENS = {"gpu": 4096, "cpu": 512}
"""Tokens computed in one step where nothing is said: on a CPU one of 4,096 takes seconds, and holds up all answers."""
_STREAMS = {"gpu": 256, "cpu": 128}
"""Answers at once that vLLM plans for where it is told nothing."""


class Verdict(StrEnum):
    """SHORTER: only with a smaller max_model_len than the model's own context."""

    FITS = "fits"
    SHORTER = "fits_with_shorter_context"
    TOO_BIG = "does_not_fit"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the engine is told, by the names of the engine's settings; the defaults are the engine's own.

    `kv_cache_bytes` is of CPUs; None: all that is left. `kv_cache_dtype`: auto is the width the model is computed in.
    """

    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_bytes: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.85
    tensor_parallel_size: int = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """Sizes are bytes, of each GPU or of all workers on a CPU; contexts and streams are in tokens and answers at once.

    `width`: bytes of a number as it is computed. `context` is what was asked, or the model's own; `longest` the longest
    one stream can have here; `streams` how many of `stream_tokens` run at once, None where nothing bounds them.
    `context_bytes`: the KV cache of one stream of `context`; `short_bytes`: what is missing for it. `obstacle`: what
    other than size forbids it.
    """

    verdict: Verdict
    device: str
    shards: int
    width: int
    budget_bytes: int
    weights_bytes: int
    activation_bytes: int
    runtime_bytes: int
    kv_cache_bytes: int
    kv_token_bytes: int
    context: int
    context_bytes: int
    longest: int
    stream_tokens: int
    streams: int | None
    short_bytes: int
    obstacle: str = ""

    def __repr__(self) -> str:
        return f"<Fit {self.verdict} {self.device} {self.needed_bytes / GIB:.2f} of {self.budget_bytes / GIB:.2f} GiB>"

    @property
    def needed_bytes(self) -> int:
        """What there must be for one stream of `context`."""
        return self.weights_bytes + self.activation_bytes + self.runtime_bytes + self.context_bytes


def fit(model: Model, machine: Machine, asked: Asked, *, stream_tokens: int = 4096, margin: bool = True) -> Fit:
    """Find a place for `model`.

    Without `margin` only what is certain counts, weights and KV cache: what does not fit then fits nowhere.
    """
    device, shards = machine.device, asked.tensor_parallel_size
    width = computed_width(model, machine, asked)
    kv_width = kv_cache_width(asked, width)
    batched = asked.max_num_batched_tokens or BATCHED_TOKENS[device]
    activation = model.shape.activation_bytes(batched, asked.max_num_seqs or _STREAMS[device], width) if margin else 0
    runtime = RUNTIME_BYTES if margin else 0
    weights = loaded_bytes(model, asked, width)
    if device == "gpu":
        memories = [gpu.memory for gpu in machine.gpus[:shards]]
        budget = int(min(memories, default=0) * asked.gpu_memory_utilization)
        weights = -(-weights // shards)
        here = 1
    else:
        budget = machine.memory.available
        here = shards  # all workers take theirs from one memory
    left = budget - weights - here * (activation + runtime)
    room = left // here if device == "gpu" or asked.kv_cache_bytes is None else asked.kv_cache_bytes
    room = max(0, room)

    def kept(tokens: int) -> int:
        block = _BLOCK[device] if margin else 1
        return model.shape.kv_bytes(-(-tokens // block) * block, kv_width, shards=shards)

    own = model.shape.context
    context = asked.max_model_len or own or stream_tokens
    longest = _longest(kept, room, max(context, own or UNLIMITED))
    obstacle = _obstacle(machine, device, shards)
    if obstacle or here * room > left or longest < min(SHORTEST, context):
        verdict, longest = Verdict.TOO_BIG, 0
    elif longest < context:
        verdict = Verdict.TOO_BIG if asked.max_model_len else Verdict.SHORTER
    else:
        verdict = Verdict.FITS
    stream_tokens = min(stream_tokens, context)
    one = kept(stream_tokens)
    bounds = [bound for bound in (room // one if one else None, asked.max_num_seqs) if bound is not None]
    streams = 0 if verdict is Verdict.TOO_BIG else min(bounds, default=None)
    return Fit(
        verdict=verdict,
        device=device,
        shards=shards,
        width=width,
        budget_bytes=budget,
        weights_bytes=weights,
        activation_bytes=here * activation,
        runtime_bytes=here * runtime,
        kv_cache_bytes=here * room,
        kv_token_bytes=model.shape.kv_token_bytes(kv_width, shards=shards),
        context=context,
        context_bytes=here * kept(context),
        longest=longest,
        stream_tokens=stream_tokens,
        streams=streams,
        short_bytes=max(0, here * max(room, kept(context)) - left, here * (kept(context) - room)),
        obstacle=obstacle,
    )


def computed_width(model: Model, machine: Machine, asked: Asked) -> int:
    """Return the bytes of a number as the engine will compute it; one saved in float32 is computed in 16 bits."""
    if asked.dtype != "auto":
        return WIDTHS[asked.dtype]
    if machine.device == "cpu" and not machine.cpu.bfloat16 and 0 < model.folder_bytes <= SMALL_WEIGHTS_BYTES:
        return 4
    return min(2, model.shape.width)


def kv_cache_width(asked: Asked, width: int) -> float:
    """Return the bytes of a number in the KV cache."""
    if asked.kv_cache_dtype == "auto":
        return width
    return WIDTHS.get(asked.kv_cache_dtype) or (0.5 if asked.kv_cache_dtype.startswith(("int4", "nvfp4")) else 1)


def loaded_bytes(model: Model, asked: Asked, width: int) -> int:
    """Return the bytes of all weights as they are held; plain ones may be quantized while they are loaded."""
    bits = None
    if asked.quantization and model.weights.plain:
        try:
            bits = quantization(asked.quantization).bits
        except ValueError:
            bits = 4  # a method not known here: no less than what any leaves
    return model.weights.bytes_at(width if bits is None else min(width, bits / 8))


def _longest(kept: Callable[[int], int], room: int, limit: int) -> int:
    """Return the most tokens, up to `limit`, that `room` bytes keep of one stream; `kept` never falls."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if kept(middle) <= room else (low, middle - 1)
    return low


def _obstacle(machine: Machine, device: str, shards: int) -> str:
    if device != "gpu":
        return ""
    if not machine.gpus:
        return "no GPU works here"
    if len(machine.gpus) < shards:
        return f"tensor_parallel_size asks for {shards} GPUs and {len(machine.gpus)} work here"
    return ""
