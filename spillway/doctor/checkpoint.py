"""A model's files: its config, and the headers of its weights, read without loading them.

The format of a header: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from spillway.doctor.architecture import Architecture, architecture
from spillway.doctor.weights import Model, Weights
from spillway.errors import FieldViolation, RequestInvalid

LONGEST_HEADER = 100_000_000
"""Bytes; the format allows no more."""
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_INDEX = "model.safetensors.index.json"
_OTHERS = ("*.bin", "*.pt", "*.pth")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Return where Hugging Face's libraries keep what they downloaded, as they find it themselves."""
    if told := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(told).expanduser()
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(home).expanduser() / "hub"


def find(model: str, cache: Path) -> Path | None:
    """Return the folder of `model`, a folder's path or a hub id; None where it is not on this disk."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        return None
    place = cache / f"models--{model.replace('/', '--')}"
    try:
        revision = (place / "refs" / "main").read_text().strip()
    except OSError:
        return None
    snapshot = place / "snapshots" / revision
    return snapshot if (snapshot / "config.json").is_file() else None


def read(folder: Path, *, name: str = "") -> Model:
    """Read the model in `folder`; `name`: its hub id, if it has one.

    Raises RequestInvalid naming the file, or the key, that is missing or wrong.
    """
    config = _mapping(folder / "config.json")
    shape = architecture(config)
    parameters, exact, source = shape.parameters, False, "the size of its files"
    files = _files(folder)
    if files:
        weights = _weights(files, shape, quantized="quantization_config" in config)
        parameters = weights.plain + round(weights.packed_bytes * 8 / (shape.bits or 8))
        exact, source = True, "the headers of its safetensors"
    elif size := _size(folder, ("*.gguf",)):
        weights = Weights(packed_bytes=size)
    elif size := _size(folder, _OTHERS):
        weights = Weights(plain=size // shape.width)
    else:
        source = "its architecture: there are no weights in the folder"
        weights = Weights(plain=parameters) if shape.bits is None else Weights(0, round(parameters * shape.bits / 8))
    on_disk = 0 if name else _size(folder, ("*.safetensors", "*.gguf", *_OTHERS))
    return Model(name or folder.resolve().name, shape, weights, parameters, source, exact, on_disk)


def header(file: Path) -> dict[str, Any]:
    """Return tensor name -> dtype, shape and offsets. Raises RequestInvalid for another format, or half a file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size):
                raise _wrong(file, "is no safetensors file (a Git LFS pointer, perhaps): download it again")
            tensors = json.loads(opened.read(length))
        if not isinstance(tensors, dict):
            raise ValueError
        tensors.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except OSError as error:
        raise _wrong(file, f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise _wrong(file, "has a header that cannot be read: download it again") from None
    if size < end:
        raise _wrong(file, f"is cut short: {size} of {end} bytes; download it again")
    return tensors


def _files(folder: Path) -> list[Path]:
    """Return the safetensors that are loaded: those the index names, or else those called model*, or else all."""
    if (folder / _INDEX).is_file():
        named = _mapping(folder / _INDEX).get("weight_map")
        if not isinstance(named, dict):
            raise _wrong(folder / _INDEX, "has no weight_map")
        return [folder / name for name in sorted({Path(str(one)).name for one in named.values()})]
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))


def _size(folder: Path, patterns: Sequence[str]) -> int:
    return sum(file.stat().st_size for pattern in patterns for file in folder.glob(pattern))


def _weights(files: list[Path], shape: Architecture, *, quantized: bool) -> Weights:
    plain = packed = 0
    for file in files:
        for name, tensor in header(file).items():
            layer = _LAYER.match(name)
            if (shape.tied and name.endswith("lm_head.weight")) or (layer and int(layer[1]) >= shape.depth):
                continue  # the embeddings again, or layers for speculation that are not loaded
            try:
                dtype, (begin, end) = tensor["dtype"], tensor["data_offsets"]
                values, size = prod(tensor["shape"]), end - begin
            except (KeyError, TypeError, ValueError):
                raise _wrong(file, "has a header that cannot be read: download it again") from None
            if dtype in _PLAIN and not quantized:
                plain += values
            else:
                packed += size
    return Weights(plain, packed)


def _mapping(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _wrong(file, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise _wrong(file, f"is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise _wrong(file, "is not a JSON object")
    return told


def _wrong(file: Path, why: str) -> RequestInvalid:
    return RequestInvalid(f"model: {file} {why}", fields=[FieldViolation("model", f"{file.name} {why}")])
