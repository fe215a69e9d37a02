"""Where the model comes from: said clearly before anything heavy is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

from spillway.settings import SettingsError

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "*.tiktoken")
TOLD_AS_JSON = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""Of which vLLM would only repeat what its parser says."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def require(model: str) -> None:
    """Raise SettingsError, saying what is wrong, unless `model` is a model's folder or may be a Hugging Face id."""
    folder = Path(model)
    if folder.is_dir():
        missing = _missing(folder)
        if missing:
            raise _wrong(model, f"this folder is no model: {missing}")
    elif folder.is_file():
        raise _wrong(model, "this is a file: name the folder it lies in")
    elif not _HUB_ID.fullmatch(model) or model.startswith((".", "/")):
        raise _wrong(model, "there is no such folder, and a Hugging Face id looks like owner/name")


def weights_bytes(model: str) -> int:
    """Return the size of a local model's weights; 0 where it is not on this disk."""
    folder = Path(model)
    return sum(file.stat().st_size for pattern in WEIGHTS for file in folder.glob(pattern)) if folder.is_dir() else 0


def _missing(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError:
        return "config.json is missing"
    except ValueError as error:
        return f"config.json is not JSON: {error}"
    if not isinstance(config, dict) or not ("architectures" in config or "model_type" in config):
        return "config.json names no architecture"
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        return f"it has no weights ({', '.join(WEIGHTS)})"
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        return f"it has no tokenizer ({', '.join(TOKENIZERS)})"
    for name in TOLD_AS_JSON:
        try:
            json.loads((folder / name).read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return f"{name} is not JSON: {error}"
    return ""


def _wrong(model: str, why: str) -> SettingsError:
    return SettingsError(f"local_engine.model: {model}: {why}")
