"""Images in prompts, for a model of vLLM that reads them: decoded, and expanded to the tokens that they fill."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError
from vllm.model_executor.model_loader import get_model_cls
from vllm.multimodal.image import convert_image_mode, normalize_image
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_content_format
from vllm.v1.engine.async_llm import AsyncLLM

from services.local_engine.chat_messages import ImageForm
from services.local_engine.image_source import image_bytes
from services.local_engine.settings import ImageSettings
from services.local_engine.support import invalid
from spillway import v1
from spillway.logs import get_logger

log = get_logger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is decoded. Decoders have holes; these four are what callers send, and what others looked at most."""
AT_ONCE = 2
"""Prompts whose images are in memory as pixels: one is decoded while another is in vLLM's processor."""
LONGEST_WHY = 200


class VllmImages:
    """Reads the images of chats for `llm`, `most` a prompt."""

    def __init__(self, llm: AsyncLLM, settings: ImageSettings, most: int, form: ImageForm) -> None:
        self._renderer = llm.renderer
        self._settings = settings
        self._most = most
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._thread = ThreadPoolExecutor(1, "images")
        self.form = form

    @classmethod
    def of(cls, llm: AsyncLLM, settings: ImageSettings) -> VllmImages | None:
        """Return what reads images for `llm`, None where its model reads none in a chat.

        Its tokenizer gets its template: some models have theirs beside the processor.
        """
        config = llm.model_config
        if not config.supports_multimodal_inputs or config.is_encoder_decoder:
            return None
        most = llm.renderer.get_mm_processor().info.allowed_mm_limits.get("image", 0)
        if not most:
            return None
        tokenizer: Any = llm.get_tokenizer()
        template = resolve_chat_template(tokenizer, None, None, model_config=config)
        if template is None:
            return None
        tokenizer.chat_template = template
        takes = resolve_chat_template_content_format(template, None, "auto", tokenizer, model_config=config)
        model: Any = get_model_cls(config)
        placeholder = model.get_placeholder_str
        mark = str(placeholder("image", 1) or "")
        special = set(tokenizer.all_special_tokens)
        reserved = special & {tokenizer.convert_ids_to_tokens(i) for i in tokenizer.encode(mark)} or {mark}
        form = ImageForm(
            None if takes == "openai" else lambda number: str(placeholder("image", number)), frozenset(reserved - {""})
        )
        return cls(llm, settings, most, form)

    async def expanded(self, ids: list[int], chat: v1.Chat) -> dict[str, Any]:
        """Return what vLLM takes for the prompt `ids` with the images of `chat`, each as the tokens that it fills.

        Raises RequestInvalid naming the image that is not one, is too large or one too many.
        """
        images = [
            (f"spec.chat.messages[{at}].parts[{number}].image", part.image)
            for at, message in enumerate(chat.messages)
            for number, part in enumerate(message.parts)
            if part.HasField("image")
        ]
        if len(images) > self._most:
            raise invalid(images[self._most][0], f"is one more than the {self._most} images that a prompt may have")
        sources = [(field, await image_bytes(image, field, self._settings)) for field, image in images]
        loop = asyncio.get_running_loop()
        async with self._turns:
            pictures = [
                await loop.run_in_executor(self._thread, decoded, data, field, self._settings.max_pixels)
                for field, data in sources
            ]
            try:
                # Not by the cache that mirrors the core's: whatever is refused or cancelled between here and the core
                # would leave the two apart, and a later request without its image.
                told = await self._renderer.process_for_engine_async(
                    {"prompt_token_ids": ids, "multi_modal_data": {"image": pictures}}, time.time(), skip_mm_cache=True
                )
            except Exception as error:  # processors are the models' own programs: what they raise is theirs
                log.info("image.refused", why=type(error).__name__)
                field = images[0][0] if len(images) == 1 else "spec.chat.messages"
                why = str(error).strip()[:LONGEST_WHY] or type(error).__name__
                raise invalid(field, f"the model's image processor refuses it: {why}") from None
        return dict(told)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def __repr__(self) -> str:
        return f"<VllmImages up to {self._most} a prompt>"


def decoded(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Return the image that `data` of `field` is, upright, opaque and in RGB, as vLLM's own server has it.

    Of moving pictures the first. Raises RequestInvalid where it is none, or larger than `max_pixels`.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        size = image.width * image.height
        if size <= max_pixels:
            image.load()
            return convert_image_mode(normalize_image(image), "RGB")
        why = f"has {size} pixels; at most {max_pixels} are accepted"
    except UnidentifiedImageError:
        why = f"is none of {', '.join(FORMATS)}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        why = f"has far too many pixels; at most {max_pixels} are accepted"
    except Exception as error:  # a damaged file makes decoders raise anything
        why = f"is damaged ({type(error).__name__})"
    raise invalid(field, why)
