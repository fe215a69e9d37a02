"""What runs a model: the port behind which vLLM, or another runtime, stands."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from services.local_engine.adapter_source import Adapter
from services.local_engine.pace import Window
from spillway import v1
from spillway.rpc.call import Call


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens of a prompt."""

    tokens: int
    exact: bool = True
    """Counted by the model's own tokenizer and template; else estimated."""


class AdapterLoader(Protocol):
    """What loads LoRA adapters into a running backend."""

    async def load(self, adapter: Adapter) -> None:
        """From now on a spec that names `adapter` is answered with it.

        Raises RequestInvalid naming `path` where it cannot be loaded; then nothing of it is.
        """
        ...

    async def unload(self, adapter: Adapter) -> None:
        """Forget it; no request uses it any more."""
        ...


class Backend(Protocol):
    """One loaded model. Raises SpillwayError alone; a generator closed or cancelled early stops the work at once."""

    @property
    def context_window(self) -> int | None:
        """Tokens, prompt and answer together; None: unknown."""
        ...

    @property
    def capabilities(self) -> tuple[v1.Capability.ValueType, ...]: ...

    @property
    def adapters(self) -> AdapterLoader | None:
        """What loads adapters; None where this backend takes none."""
        ...

    def generate(
        self, spec: v1.GenerationSpec, call: Call, *, window: Window, whole: bool
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        """Yield Started with prompt_tokens, deltas, Finished, Usage; sequences and names are left to the caller.

        Deltas after the first are merged for up to `window()` seconds. With `whole` there is one when the first token
        is there, as a sign of life, and one with all the rest.
        """
        ...

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        """Return a vector for every input, and Usage with prompt_tokens; names are left to the caller.

        `alive` is told when the first vectors are there, where that is known before the last are. Asked only of a model
        with CAPABILITY_EMBEDDINGS, which is asked for nothing else.
        """
        ...

    async def count_tokens(self, spec: v1.GenerationSpec) -> Count:
        """Return the tokens of the prompt, as the model's own tokenizer and template make them where that is known."""
        ...

    def load(self, state: v1.EngineState.ValueType) -> v1.Load: ...

    def trouble(self) -> str:
        """Why nothing can be generated now though that may pass; empty where it can."""
        ...

    async def changed(self) -> None:
        """Return when `trouble` may say something else. For one who waits."""
        ...

    async def died(self) -> str:
        """Return why no more can be generated, when that is so; running generations have been failed by then."""
        ...

    async def close(self) -> None: ...
