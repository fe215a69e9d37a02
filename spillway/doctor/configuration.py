"""What a mesh's configuration asks of the local engine, as far as memory goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from spillway.doctor.fit import GIB, KV_CACHE_DTYPES, Asked
from spillway.settings import Section, SettingsError, explain, mapping, overlay, read_environment, read_mesh

_SECTION = "local_engine"


class _Part(Section):
    """Some settings of a section; the engine itself looks at the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CpuPart(_Part):
    kv_cache_gib: float = Field(1.0, gt=0)


class VllmPart(_Part):
    """The settings of `local_engine.vllm` that memory depends on, with the engine's own defaults."""

    dtype: str = Field("auto", pattern="^(auto|bfloat16|float16|float32)$")
    quantization: str | None = None
    kv_cache_dtype: str = Field("auto", pattern=f"^(?:{KV_CACHE_DTYPES})$")
    max_model_len: int | None = Field(None, gt=1)
    max_num_seqs: int | None = Field(None, gt=0)
    max_num_batched_tokens: int | None = Field(None, gt=0)
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    tensor_parallel_size: int = Field(1, gt=0)
    pipeline_parallel_size: int = Field(1, gt=0)
    cpu: CpuPart = CpuPart()

    def asked(self) -> Asked:
        """Return it as the arithmetic takes it."""
        told = self.model_dump(exclude={"cpu", "pipeline_parallel_size"})
        told["tensor_parallel_size"] *= self.pipeline_parallel_size
        return Asked(kv_cache_bytes=round(self.cpu.kv_cache_gib * GIB), **told)


class EnginePart(_Part):
    """The settings of `local_engine` that the doctor looks at; no `model` is the bundled one."""

    model: str | None = None
    vllm: VllmPart = VllmPart()


def configured(path: Path, environ: Mapping[str, str]) -> EnginePart:
    """Read the configuration at `path` under the environment. Raises SettingsError naming each path that is wrong."""
    layers = (read_mesh(path), read_environment(environ))
    merged: dict[str, object] = {}
    for layer in layers:
        merged = overlay(merged, mapping(layer.get(_SECTION), _SECTION))
    try:
        return EnginePart.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(explain(error, _SECTION)) from None
