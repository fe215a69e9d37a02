"""Whether a model fits: the sum, its bounds, and what would mend it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.doctor.diagnosis import advise
from spillway.doctor.family import BITS, FAMILIES, member, model_of
from spillway.doctor.fit import GIB, RUNTIME_BYTES, Asked, Verdict, fit
from spillway.doctor.machine import Cpu, Gpu, Machine, Memory, Software
from spillway.doctor.report import report

CPU = Machine(Cpu("a CPU", "x86_64", 8, features=frozenset({"avx2"})), Memory(40 * GIB, 40 * GIB))
CARD = Gpu("a GPU", 24 * GIB, 24 * GIB, (8, 9))
GPU = replace(CPU, gpus=(CARD,), software=Software(vllm="1", torch="2", vllm_build="gpu"))


def mends(model: str, machine: Machine, asked: Asked) -> str:
    family, _, bits = model.partition("@")
    found = member(family, float(bits))
    return " ".join(one.mend for one in advise(found, machine, asked, fit(found, machine, asked)))


def test_what_is_left_beside_weights_and_margins_is_the_caches() -> None:
    found = fit(member("8B", 16), GPU, Asked(max_model_len=8192))
    budget = int(24 * GIB * 0.85)
    activations = 4096 * (2 * 4096 + 3 * 14336) * 2 + 256 * 128256 * 8
    assert found.weights_bytes == 8_030_261_248 * 2
    assert found.kv_cache_bytes == budget - found.weights_bytes - activations - RUNTIME_BYTES
    assert found.longest == found.kv_cache_bytes // (16 * 131072) * 16
    assert found.streams == found.kv_cache_bytes // (4096 * 131072)
    assert found.needed_bytes == budget - found.kv_cache_bytes + 8192 * 131072


def test_a_context_that_is_too_long_is_told_apart_from_a_model_that_is_too_big() -> None:
    assert fit(member("8B", 16), CPU, Asked()).verdict is Verdict.FITS
    small = replace(CPU, memory=Memory(24 * GIB, 24 * GIB))
    assert fit(member("8B", 16), small, Asked()).verdict is Verdict.SHORTER
    assert fit(member("8B", 16), small, Asked(max_model_len=131072)).verdict is Verdict.TOO_BIG
    assert fit(member("70B", 16), small, Asked()).verdict is Verdict.TOO_BIG


def test_no_more_streams_are_promised_than_the_engine_will_run() -> None:
    assert fit(member("1B", 4), CPU, Asked(max_num_seqs=3)).streams == 3
    assert fit(member("70B", 16), CPU, Asked(max_num_seqs=3)).streams == 0
    encoder = replace(member("1B", 16), shape=replace(member("1B", 16).shape, layers=()))
    assert fit(encoder, CPU, Asked()).streams is None


def test_gpus_share_weights_and_cache() -> None:
    four = replace(GPU, gpus=(CARD,) * 4)
    one, spread = (fit(member("32B", 16), four, Asked(tensor_parallel_size=size)) for size in (1, 4))
    assert (one.verdict, spread.verdict) == (Verdict.TOO_BIG, Verdict.SHORTER)
    assert spread.weights_bytes == one.weights_bytes // 4
    assert spread.kv_token_bytes == one.kv_token_bytes // 4
    assert "tensor_parallel_size" in fit(member("1B", 4), GPU, Asked(tensor_parallel_size=2)).obstacle


def test_workers_on_a_cpu_share_one_memory() -> None:
    asked = Asked(kv_cache_bytes=GIB, max_model_len=512)
    one, two = (fit(member("1B", 16), CPU, replace(asked, tensor_parallel_size=size)) for size in (1, 2))
    assert two.kv_cache_bytes == 2 * one.kv_cache_bytes
    assert two.weights_bytes == one.weights_bytes


def test_a_cache_that_is_granted_is_neither_more_nor_less() -> None:
    asked = Asked(kv_cache_bytes=GIB, max_model_len=8192)
    found = fit(member("8B", 4), CPU, asked)
    assert (found.verdict, found.kv_cache_bytes, found.streams) == (Verdict.FITS, GIB, 2)
    assert fit(member("8B", 4), CPU, replace(asked, max_model_len=8193)).verdict is Verdict.TOO_BIG
    assert fit(member("8B", 4), CPU, replace(asked, kv_cache_bytes=50 * GIB)).verdict is Verdict.TOO_BIG


def test_fp8_halves_the_cache_and_what_was_saved_in_float32_is_computed_in_16_bits() -> None:
    plain, fp8 = (fit(member("8B", 16), GPU, Asked(kv_cache_dtype=dtype)) for dtype in ("auto", "fp8"))
    assert fp8.kv_token_bytes * 2 == plain.kv_token_bytes
    model = member("1B", 16)
    saved = replace(model, shape=replace(model.shape, width=4))
    assert fit(saved, GPU, Asked()).weights_bytes == model.parameters * 2
    assert fit(saved, GPU, Asked(dtype="float32")).weights_bytes == model.parameters * 4
    assert fit(saved, GPU, Asked(quantization="fp8")).weights_bytes == model.parameters


def test_a_small_folder_is_computed_in_float32_where_a_cpu_has_no_bfloat16() -> None:
    small = replace(model_of(1e8, 16), folder_bytes=200_000_000)
    modern = replace(CPU, cpu=replace(CPU.cpu, features=frozenset({"avx512_bf16"})))
    assert fit(small, CPU, Asked()).weights_bytes == 400_000_000
    assert fit(small, modern, Asked()).weights_bytes == 200_000_000


def test_what_would_make_it_fit_is_said_the_least_change_first() -> None:
    assert mends("8B@16", replace(CPU, memory=Memory(24 * GIB, 24 * GIB)), Asked(max_model_len=131072)).startswith(
        "set max_model_len to"
    )
    assert "quantized to 8 bits" in mends("14B@16", GPU, Asked())
    assert "tensor_parallel_size to 4" in mends("32B@16", replace(GPU, gpus=(CARD,) * 4), Asked())
    assert "a smaller model" in mends("70B@4", GPU, Asked())
    assert "cpu.kv_cache_gib between 4.01 and" in mends("3B@4", CPU, Asked(kv_cache_bytes=GIB, max_model_len=37449))
    assert mends("1B@4", CPU, Asked()) == ""


def test_a_gpu_that_others_fill_is_told_with_the_share_that_is_free() -> None:
    busy = replace(GPU, gpus=(replace(CARD, free=12 * GIB),))
    found = report(busy, Asked(), member("1B", 16), stream_tokens=4096)
    (finding,) = (one for one in found.findings if one.code == "gpu_busy")
    assert "gpu_memory_utilization to 0.5" in finding.mend
    assert not found.healthy


def test_an_advised_context_fits_and_one_block_more_does_not() -> None:
    machine = replace(CPU, memory=Memory(24 * GIB, 24 * GIB))
    longest = fit(member("8B", 16), machine, Asked()).longest
    assert fit(member("8B", 16), machine, Asked(max_model_len=longest)).verdict is Verdict.FITS
    assert fit(member("8B", 16), machine, Asked(max_model_len=longest + 128)).verdict is Verdict.TOO_BIG


@settings(deadline=None)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(BITS),
    st.integers(1, 512),
    st.integers(1, 64),
    st.booleans(),
)
def test_more_memory_and_fewer_bits_never_make_it_worse(
    family: str, bits: int, memory_gib: int, more: int, gpu: bool
) -> None:
    def found(size: int, width: int) -> int:
        machine = replace(CPU, memory=Memory(size * GIB, size * GIB))
        if gpu:
            machine = replace(GPU, gpus=(replace(CARD, memory=size * GIB, free=size * GIB),))
        told = fit(member(family, width), machine, Asked())
        assert (told.verdict is Verdict.FITS) <= (told.short_bytes == 0)
        return told.longest

    assert found(memory_gib, bits) <= found(memory_gib + more, bits)
    assert found(memory_gib, bits) <= found(memory_gib, max(1, bits // 2))


@settings(deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, 256), st.integers(512, 40000))
def test_what_does_not_fit_without_margins_does_not_fit_with_them(family: str, memory_gib: int, context: int) -> None:
    machine = replace(CPU, memory=Memory(memory_gib * GIB, memory_gib * GIB))
    asked = Asked(max_model_len=context)
    certain = fit(member(family, 16), machine, asked, margin=False)
    if certain.verdict is Verdict.TOO_BIG:
        assert fit(member(family, 16), machine, asked).verdict is Verdict.TOO_BIG
