"""A conversation as context policy sees it."""

from __future__ import annotations

from services.router.condensation import sketch
from spillway import v1
from spillway.tokens import BYTES_PER_TOKEN, IMAGE_TOKENS


def test_an_image_weighs_what_it_is_taken_for_among_the_texts_of_a_chat() -> None:
    image = v1.Part(image=v1.Image(data=b"x", mime_type="image/png"))
    text = v1.Part(text="x" * IMAGE_TOKENS * BYTES_PER_TOKEN)
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[part]) for part in (image, text)])
    found = sketch(v1.GenerationSpec(chat=chat), 3000)
    assert found is not None
    assert [piece.tokens for piece in found.pieces] == [1500, 1500]
