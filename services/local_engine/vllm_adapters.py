"""LoRA adapters in vLLM."""

from __future__ import annotations

from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from services.local_engine.adapter_source import Adapter, wrong
from spillway.errors import TargetDown
from spillway.logs import get_logger

log = get_logger(__name__)

LONGEST_WHY = 300


class VllmAdapters:
    """Loads adapters into `llm`, and keeps what its requests have to bring to be answered with one."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._requests: dict[str, LoRARequest] = {}

    def request(self, name: str) -> LoRARequest | None:
        """Return what a request for the adapter `name` brings; None for the empty name, the model itself."""
        return self._requests[name] if name else None

    async def load(self, adapter: Adapter) -> None:
        # vLLM's prefix cache tells adapters apart by name and folder: one that comes later with both the same, and
        # other weights, would find what this one has computed.
        request = LoRARequest(f"{adapter.name}#{adapter.id}", adapter.id, str(adapter.folder))
        try:
            await self._llm.add_lora(request)
        except EngineDeadError:
            raise TargetDown("the engine died") from None
        except Exception as error:  # what its core could not do comes back as that, with nothing but its words
            log.warning("adapter.not_loaded", adapter=adapter.name, why=str(error))
            await self._llm.remove_lora(adapter.id)  # weights that do not fit are found out when half of them are there
            why = str(error).partition("failed: ")[2] or str(error)
            raise wrong("path", f"{adapter.path}: vLLM cannot load it: {why[:LONGEST_WHY]}") from None
        self._requests[adapter.name] = request

    async def unload(self, adapter: Adapter) -> None:
        try:
            await self._llm.remove_lora(adapter.id)
        except EngineDeadError:
            raise TargetDown("the engine died") from None
        del self._requests[adapter.name]

    def __repr__(self) -> str:
        return f"<VllmAdapters {' '.join(sorted(self._requests))}>"
