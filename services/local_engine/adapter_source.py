"""Where an adapter comes from: a folder below the folder of adapters, looked at before the engine is given it.

What is looked at is what the engine would not: an adapter made for a smaller model than the one that is served is
accepted by vLLM, and spoils the answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spillway.doctor import checkpoint
from spillway.errors import FieldViolation, RequestInvalid

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PART = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_NUMBER = re.compile(r"\.\d+\.")

Shapes = Mapping[str, tuple[int, ...]]
"""Tensors of a checkpoint by their names."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that may be loaded. `id` is never another's, not even of one that had this name and is gone."""

    name: str
    id: int
    folder: Path
    path: str
    """As the operator calls it: below the folder of adapters."""
    rank: int


def read(root: Path, name: str, path: str, *, id: int, max_rank: int, base: Shapes) -> Adapter:
    """Return the adapter in the folder `path` below `root`; `base` is the model it has to fit, empty if unknown.

    Raises RequestInvalid naming `name` or `path`, and what is wrong.
    """
    if not _NAME.fullmatch(name):
        raise wrong("name", "is letters, digits, dots, dashes and underscores, at most 64, and begins with no sign")
    path = path or name
    folder = _below(root, path)
    rank = _rank(_below(root, f"{path}/{CONFIG}"))
    if rank > max_rank:
        raise wrong("path", f"{path} has the rank {rank}; local_engine.vllm.adapters.max_rank is {max_rank}")
    weights = _below(root, f"{path}/{WEIGHTS}")
    if not weights.is_file():
        raise wrong("path", f"{path} has no {WEIGHTS}")
    if said := mismatch(shapes(weights), base):
        raise wrong("path", f"{path} was made for another model: {said}")
    return Adapter(name, id, folder, path, rank)


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in `file`. Raises RequestInvalid if it is no safetensors file."""
    try:
        return {name: tuple(tensor["shape"]) for name, tensor in checkpoint.header(file).items()}
    except RequestInvalid as error:
        raise wrong("path", error.fields[0].description) from None
    except (KeyError, TypeError):
        raise wrong("path", f"{file.name} has a header that cannot be read") from None


def mismatch(adapter: Shapes, base: Shapes) -> str:
    """Return why `adapter` does not fit `base`, empty if nothing is seen to be wrong.

    What a checkpoint calls otherwise than an adapter does (fused experts, quantized weights) is left to the engine.
    """
    layers = {_NUMBER.sub(".#.", name) for name in base}
    for name, shape in adapter.items():
        found = _PART.fullmatch(name)
        if found is None:
            continue
        module, axis = f"{found['module']}.weight", 1 if found["side"] == "A" else 0
        whole = base.get(module)
        if whole is None:
            if _NUMBER.sub(".#.", module) in layers:
                return f"this one has no {found['module']}"
        elif len(shape) == len(whole) == 2 and shape[axis] != whole[axis]:
            return f"{found['module']} is {_size(whole)} here, and it is made for {shape[axis]} of the {whole[axis]}"
    return ""


def base_shapes(folder: Path | None) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the model in `folder`; empty where its files do not say."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        try:
            found |= shapes(file)
        except RequestInvalid:
            return {}
    return found


def wrong(field: str, said: str) -> RequestInvalid:
    """Return the error for `field` of a request."""
    return RequestInvalid(f"{field}: {said}", fields=[FieldViolation(field, said)])


def _below(root: Path, path: str) -> Path:
    """Return where `path` leads, links followed. Raises RequestInvalid if that is not below `root`, or nowhere."""
    try:
        place = (root / path).resolve(strict=True)
        if place.is_relative_to(root.resolve()) and place != root.resolve():
            return place
    except FileNotFoundError:
        raise wrong("path", f"there is no {path} in the folder of adapters") from None
    except (OSError, ValueError, RuntimeError):
        raise wrong("path", f"{path!r} cannot be read") from None
    raise wrong("path", f"{path} is not below the folder of adapters")


def _rank(file: Path) -> int:
    try:
        told: Any = json.loads(file.read_text(encoding="utf-8"))
        ranks = [told["r"], *(told.get("rank_pattern") or {}).values()]
        if all(type(rank) is int and rank > 0 for rank in ranks):
            return int(max(ranks))
    except OSError as error:
        raise wrong("path", f"{file.name} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise wrong("path", f"{file.name} is not the configuration of a LoRA adapter: it names no rank `r`")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
