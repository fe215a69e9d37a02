"""Texts to vectors by vLLM: every input is a request of its own, and the engine computes them together."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import torch
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from services.local_engine import prompt
from services.local_engine.seats import Seats
from services.local_engine.support import invalid, unsupported
from spillway import v1
from spillway.errors import TargetDown
from spillway.rpc.call import Call

Encode = Callable[[Sequence[str]], Any]
"""Returns, awaited, the token ids of texts, special tokens included."""


class VllmEmbedder:
    """The pooling side of a loaded model. `headers` are those of a call's trace, for vLLM's own spans."""

    def __init__(
        self, llm: AsyncLLM, encode: Encode, seats: Seats, headers: Callable[[Call], Mapping[str, str] | None]
    ) -> None:
        self._llm = llm
        self._encode = encode
        self._seats = seats
        self._headers = headers
        config = llm.model_config
        self._context = int(config.max_model_len)
        self._vocabulary = int(config.get_vocab_size())
        self._size = int(config.embedding_size)
        self._shortens = bool(config.is_matryoshka)
        self._lengths: Sequence[int] | None = config.matryoshka_dimensions
        # Some sentence encoders read lower case alone, and say so beside the tokenizer, not in it.
        self._lowers = bool((config.encoder_config or {}).get("do_lower_case", False))
        self._at_once = max(1, int(llm.vllm_config.scheduler_config.max_num_seqs))
        self._numbers = itertools.count()

    async def embed(
        self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None], *, priority: int
    ) -> v1.EmbedResponse:
        """Return a vector for every input of `spec`. Cancelled, it leaves the engine nothing to do."""
        began = time.monotonic()
        for name in spec.extra.fields:
            raise unsupported(f"spec.extra.{name[:50]}", "is not known here")
        parameters = PoolingParams(task="embed", dimensions=self._dimensions(spec))
        inputs = await self._inputs(spec)
        # No more at once than the engine computes: what others ask meanwhile finds its place among them.
        turn = asyncio.Semaphore(self._at_once)
        number = next(self._numbers)

        async def one(index: int, ids: list[int]) -> v1.Embedding:
            async with turn, self._seats.taken(background=priority > 0):
                vector = await self._vector(ids, parameters, f"{call.request_id}/{number}/{index}", call, priority)
            alive()
            return vector

        tasks = [asyncio.create_task(one(index, ids), name="embed-input") for index, ids in enumerate(inputs)]
        try:
            vectors = await asyncio.gather(*tasks)
        except VLLMClientError as error:
            why = str(error.args[0]) if error.args else "the engine refuses them"
            raise invalid("spec.inputs", why) from None
        except EngineDeadError:
            raise TargetDown("the engine died") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return v1.EmbedResponse(
            embeddings=vectors,
            usage=v1.Usage(
                prompt_tokens=sum(map(len, inputs)),
                completion_tokens=0,
                timings=v1.Timings(total_ms=(time.monotonic() - began) * 1000),
            ),
        )

    async def _vector(
        self, ids: list[int], parameters: PoolingParams, name: str, call: Call, priority: int
    ) -> v1.Embedding:
        over = False
        outputs: AsyncGenerator[Any, None] = self._llm.encode(
            tokens_input(ids), parameters.clone(), name, trace_headers=self._headers(call), priority=priority
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    over = output.finished
        finally:
            if not over:
                await asyncio.shield(self._llm.abort(name))
        return v1.Embedding(values=output.outputs.data.to(torch.float32).tolist())

    async def _inputs(self, spec: v1.EmbeddingSpec) -> list[list[int]]:
        """Return the token ids of every input; all are known to fit before the first is computed."""
        texts = [one.text.lower() if self._lowers else one.text for one in spec.inputs if one.HasField("text")]
        encoded = iter(await self._encode(texts)) if texts else iter(())
        found = []
        for index, one in enumerate(spec.inputs):
            place = f"spec.inputs[{index}]"
            if one.HasField("tokens"):
                field = f"{place}.tokens.ids"
                ids = prompt.known(one.tokens.ids, self._vocabulary, field)
            else:
                field, ids = f"{place}.text", list(next(encoded))
            if len(ids) > self._context:
                raise prompt.too_long(field, len(ids), self._context)
            if not ids:  # a text of which the tokenizer keeps nothing
                raise invalid(field, "has no token")
            found.append(ids)
        return found

    def _dimensions(self, spec: v1.EmbeddingSpec) -> int | None:
        """Return the length to shorten vectors to, None for the model's own."""
        if not spec.HasField("dimensions") or spec.dimensions == self._size:
            return None
        if not self._shortens:
            raise unsupported("spec.dimensions", f"this model's vectors have {self._size} and cannot be shortened")
        if spec.dimensions > self._size:
            raise unsupported("spec.dimensions", f"this model's vectors have {self._size} at most")
        if self._lengths is not None and spec.dimensions not in self._lengths:
            raise unsupported(
                "spec.dimensions", f"this model's vectors have one of {', '.join(map(str, self._lengths))}"
            )
        return spec.dimensions

    def __repr__(self) -> str:
        return f"<VllmEmbedder {self._size} dimensions, {self._context} context>"
