"""What is decoded, and how."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from io import BytesIO
from typing import Any

import pytest

from spillway.errors import RequestInvalid

Image = pytest.importorskip("PIL.Image")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

FIELD = "spec.chat.messages[0].parts[0].image"
RED, BLUE = (220, 20, 20), (10, 30, 200)

BOMB = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)), (b"IDAT", b""))
)
"""A hundred bytes that say they are 3.6 gigapixels."""


def stored(image: Any, kind: str, **options: Any) -> bytes:
    with BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def decoded(data: bytes, max_pixels: int = 10_000) -> Any:
    from services.local_engine.vllm_images import decoded

    return decoded(data, FIELD, max_pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_four_formats_are_read_as_rgb(kind: str) -> None:
    image = decoded(stored(Image.new("RGB", (20, 10), RED), kind))
    assert (image.mode, image.size) == ("RGB", (20, 10))
    assert all(abs(told - meant) < 12 for told, meant in zip(image.getpixel((3, 3)), RED, strict=True))


def test_what_can_be_seen_through_is_on_white() -> None:
    image = decoded(stored(Image.new("RGBA", (4, 4), (*RED, 0)), "PNG"))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_a_photograph_is_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    assert decoded(stored(Image.new("RGB", (20, 10), RED), "JPEG", exif=exif)).size == (10, 20)


def test_of_moving_pictures_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    image = decoded(stored(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<svg/>", "is none of PNG, JPEG, WEBP, GIF"),
        (stored(Image.new("RGB", (4, 4)), "BMP"), "is none of"),
        (stored(Image.new("RGB", (64, 64), RED), "JPEG")[:300], "is none of|is damaged"),
        (stored(Image.effect_noise((64, 64), 50), "PNG")[:1000], "is damaged"),
        (stored(Image.new("RGB", (101, 100)), "PNG"), "has 10100 pixels; at most 10000"),
        (BOMB, "far too many pixels"),
    ],
    ids=["text", "bmp", "cut jpeg", "cut png", "large", "bomb"],
)
def test_what_is_no_image_or_too_large_is_refused_by_field(data: bytes, why: str) -> None:
    with pytest.raises(RequestInvalid, match=why) as refusal:
        decoded(data)
    assert refusal.value.fields[0].field == FIELD
