"""What a mesh's configuration asks of its local engines, as far as memory and cores go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from spillway.doctor.fit import GIB, KV_CACHE_DTYPES, Asked
from spillway.local_engines import GROUND, SECTION
from spillway.settings import Section, SettingsError, engines, explain, mapping, overlay, read_environment, read_mesh


class _Part(Section):
    """Some settings of a section; the engine itself looks at the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Share(Section):
    """What an engine gets of a machine that it has with others."""

    memory: float | None = Field(
        None, gt=0, le=1, description="share of the memory, of each of its GPUs' on GPUs; absent: see docs/machine.md"
    )
    cores: int | None = Field(None, gt=0, description="cores of its own; absent: an even part of what is left")
    devices: tuple[int, ...] | None = Field(
        None, min_length=1, description="GPUs by nvidia-smi's numbers; absent: what others do not name"
    )


class CpuPart(_Part):
    kv_cache_gib: float = Field(1.0, gt=0)
    bind: str = "auto"


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
    data_parallel_size: int = Field(1, gt=0)
    cpu: CpuPart = CpuPart()

    def asked(self) -> Asked:
        """Return it as the arithmetic takes it."""
        told = self.model_dump(exclude={"cpu", "pipeline_parallel_size", "data_parallel_size"})
        told["tensor_parallel_size"] *= self.pipeline_parallel_size
        return Asked(kv_cache_bytes=round(self.cpu.kv_cache_gib * GIB), **told)


class RuntimePart(_Part):
    kind: str = "vllm"


class EnginePart(_Part):
    """The settings of `local_engine` that the doctor looks at; no `model` is the bundled one."""

    model: str | None = None
    runtime: RuntimePart = RuntimePart()
    vllm: VllmPart = VllmPart()
    share: Share = Share()


def configured(path: Path, environ: Mapping[str, str]) -> dict[str, EnginePart]:
    """Read the engines of the configuration at `path` under the environment, by name; the only one may have none, "".

    Raises SettingsError naming each path that is wrong.
    """
    layers = (read_mesh(path), read_environment(environ))
    sections: Mapping[str, Mapping[str, object]] = engines(*layers)
    if not sections:
        merged: dict[str, object] = {}
        for layer in layers:
            merged = overlay(merged, mapping(layer.get(GROUND), GROUND))
        sections = {"": merged}
    found = {}
    for name, section in sections.items():
        try:
            found[name] = EnginePart.model_validate(section)
        except ValidationError as error:
            raise SettingsError(explain(error, f"{SECTION}.{name}" if name else GROUND)) from None
    return found
