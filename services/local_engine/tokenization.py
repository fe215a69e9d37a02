"""A prompt's tokens: made once, off the event loop where that takes long, and kept for whoever counted them first."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from services.local_engine import prompt
from services.local_engine.chat_messages import ImageForm
from services.local_engine.fill_in_the_middle import Frame
from services.local_engine.special_tokens import SpecialTokens
from spillway import v1
from spillway.generation import prompt_bytes

LONG_PROMPT_BYTES = 8192
"""Longer prompts are tokenized off the event loop: below, a thread costs more than it saves."""
KEPT_COUNTS = 1024
KEPT_TOKENS = 2**19
"""Ids that are kept at once, 4 bytes each."""
LEFT_OUT = (
    "request_id",
    "session_id",
    "model",
    "sampling",
    "stop",
    "logprobs",
    "coalescing",
    "priority",
    "prompt_cache",
)
"""Fields of a spec that its prompt's tokens do not depend on. All others count, those still to come too."""


class Counted:
    """Prompts that were counted: how many tokens each has, and for the last of them which.

    A prompt is known by a digest; no text is kept. A router that waits counts again at each wake, and at last has the
    prompt answered: that takes the ids out.
    """

    def __init__(self, counts: int = KEPT_COUNTS, tokens: int = KEPT_TOKENS) -> None:
        self._most_counts, self._most_tokens = counts, tokens
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._ids: OrderedDict[bytes, array[int]] = OrderedDict()
        self._tokens = 0

    def put(self, key: bytes, ids: list[int]) -> None:
        """Keep what was counted, and forget the oldest where it is too much."""
        self._drop(key)
        self._counts[key] = len(ids)
        self._counts.move_to_end(key)
        if len(self._counts) > self._most_counts:
            self._counts.popitem(last=False)
        self._ids[key] = array("I", ids)
        self._tokens += len(ids)
        while self._tokens > self._most_tokens or len(self._ids) > self._most_counts:
            self._drop(next(iter(self._ids)))

    def count(self, key: bytes) -> int | None:
        """Return how many tokens the prompt `key` has; None if that is not known."""
        return self._counts.get(key)

    def take(self, key: bytes) -> list[int] | None:
        """Return the ids of the prompt `key`, which are then no longer kept; None if they are not."""
        ids = self._ids.get(key)
        self._drop(key)
        return None if ids is None else ids.tolist()

    def __len__(self) -> int:
        """How many prompts' ids are kept."""
        return len(self._ids)

    def _drop(self, key: bytes) -> None:
        ids = self._ids.pop(key, None)
        if ids is not None:
            self._tokens -= len(ids)

    def __repr__(self) -> str:
        return f"<Counted {len(self._counts)} prompts, {self._tokens} ids>"


class Tokenization:
    """Turns prompts into the ids of a model with `vocabulary` of them.

    `frame` is how it fills in the middle, `form` how its template takes images: each is one mark here, not yet tokens.
    `special` are tokens that a chat's text is not read for.
    """

    def __init__(
        self,
        tokenizer: Any,
        executor: Executor,
        vocabulary: int,
        frame: Frame | None,
        form: ImageForm | None = None,
        special: SpecialTokens | None = None,
    ) -> None:
        # A fast tokenizer is not to be used by two threads at once, and vLLM uses its own.
        self.tokenizer = copy.deepcopy(tokenizer)
        self._long_tokenizer = copy.deepcopy(tokenizer)
        self._executor = executor
        self._vocabulary = vocabulary
        self._told = (frame, form, special)
        self._counted = Counted()

    async def tokens(self, spec: v1.GenerationSpec) -> list[int]:
        """Return the prompt of `spec` as ids. Raises RequestInvalid or ConstraintUnsupported naming the field."""
        if spec.HasField("tokens"):
            prompt.require_no_template(spec)
            return prompt.known(spec.tokens.ids, self._vocabulary)
        if len(self._counted) and (ids := self._counted.take(digest(spec))) is not None:
            return ids
        return await self._made(spec)

    async def count(self, spec: v1.GenerationSpec) -> int:
        """Return how many tokens the prompt of `spec` has. Raises as `tokens` does."""
        if spec.HasField("tokens"):
            prompt.require_no_template(spec)
            return len(prompt.known(spec.tokens.ids, self._vocabulary))
        key = digest(spec)
        if (count := self._counted.count(key)) is None:
            ids = await self._made(spec)
            self._counted.put(key, ids)
            count = len(ids)
        return count

    async def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of `texts`, special tokens included; nothing is kept."""
        if sum(len(text.encode()) for text in texts) <= LONG_PROMPT_BYTES:
            return [self.tokenizer.encode(text) for text in texts]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: [self._long_tokenizer.encode(text) for text in texts])

    async def _made(self, spec: v1.GenerationSpec) -> list[int]:
        if prompt_bytes(spec) <= LONG_PROMPT_BYTES:
            return prompt.tokens(spec, self.tokenizer, *self._told)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, prompt.tokens, spec, self._long_tokenizer, *self._told)

    def __repr__(self) -> str:
        return f"<Tokenization {self._vocabulary} ids {self._counted!r}>"


def digest(spec: v1.GenerationSpec) -> bytes:
    """Return what stands for the prompt of `spec`."""
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    for name in LEFT_OUT:
        asked.ClearField(name)  # type: ignore[arg-type]
    for message in asked.chat.messages:
        for part in message.parts:
            if part.HasField("image"):  # one mark here, whatever it shows; and millions of bytes to read
                part.image.Clear()
    return hashlib.blake2b(asked.SerializeToString(deterministic=True), digest_size=16).digest()
