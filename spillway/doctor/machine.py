"""What a machine has, as far as it matters to an engine. Sizes are bytes; None is unknown, never zero."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cpu:
    """`cores`: those this process may run on; `limit`: cores' worth of time its cgroup grants.

    `ids`: the system's numbers of those cores, the threads of one core beside each other; empty: unknown.
    """

    model: str
    kind: str
    cores: int
    limit: float | None = None
    features: frozenset[str] | None = None
    ids: tuple[int, ...] = ()

    @property
    def bfloat16(self) -> bool:
        """Whether vLLM computes in bfloat16 on it, rather than by way of float32."""
        return self.features is not None and bool(self.features & {"avx512_bf16", "amx_tile"})


@dataclass(frozen=True, slots=True)
class Memory:
    """`available`: what can be had without swapping, inside the cgroup's `limit` where there is one."""

    total: int
    available: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory: int
    free: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver. `cuda`: the newest CUDA it runs; `failure`: why it does not work."""

    version: str = ""
    cuda: tuple[int, int] | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Software:
    """Versions installed beside this command, "" where one is not. `torch_cuda`: what torch was built for."""

    python: str = ""
    torch: str = ""
    torch_cuda: tuple[int, int] | None = None
    vllm: str = ""
    vllm_build: str = ""
    """gpu or cpu; "" where vLLM is not installed."""


@dataclass(frozen=True, slots=True)
class Disk:
    path: str
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything. `cards`: NVIDIA cards on the bus, whether their driver works or not; None driver: there is none."""

    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
    cards: int = 0
    software: Software = Software()
    disk: Disk | None = None

    @property
    def device(self) -> str:
        """Where vLLM would run here: gpu or cpu. As long as none is installed, a GPU that works is preferred."""
        if self.software.vllm_build:
            return self.software.vllm_build
        return "gpu" if self.gpus else "cpu"

    def __repr__(self) -> str:
        return (
            f"<Machine {self.device} {self.cpu.cores} cores {self.memory.total / 2**30:.1f} GiB {len(self.gpus)} GPUs>"
        )
