"""A model's files are read by their headers, and damage is told before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spillway.doctor.checkpoint import find, header, hub_cache, read
from spillway.errors import RequestInvalid

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}


def safetensors(file: Path, tensors: dict[str, tuple[str, list[int], int]], *, missing: int = 0) -> None:
    """Write a file whose tensors are name -> dtype, shape, bytes; the last `missing` bytes are not there."""
    told, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps({"__metadata__": {"format": "pt"}, **told}).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(end - missing))


def folder(place: Path, **config: object) -> Path:
    (place / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return place


EMBEDDINGS = {"model.embed_tokens.weight": ("F16", [256, 64], 32768)}
HEAD = {"lm_head.weight": ("F16", [256, 64], 32768)}


def test_weights_are_the_sum_of_the_tensors_and_tied_embeddings_count_once(tmp_path: Path) -> None:
    safetensors(tmp_path / "model.safetensors", EMBEDDINGS | HEAD)
    tied, apart = (read(folder(tmp_path, tie_word_embeddings=tied)) for tied in (True, False))
    assert (tied.parameters, tied.weights.bytes_at(2), tied.exact) == (16384, 32768, True)
    assert apart.weights.bytes_at(2) == 65536
    assert tied.folder_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_quantized_weights_stay_as_they_are_and_layers_that_are_not_loaded_do_not_count(tmp_path: Path) -> None:
    packed = {"model.layers.0.mlp.up_proj.qweight": ("I32", [8, 128], 4096), "model.layers.1.x": ("F16", [9], 18)}
    safetensors(tmp_path / "model.safetensors", EMBEDDINGS | packed)
    model = read(folder(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4}))
    assert (model.weights.plain, model.weights.packed_bytes) == (0, 32768 + 4096)
    assert model.weights.bytes_at(4) == model.weights.bytes_at(2)


def test_only_the_files_that_the_index_names_are_loaded(tmp_path: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"):
        safetensors(tmp_path / name, {f"{name}.weight": ("F16", [64], 128)})
    assert read(folder(tmp_path)).parameters == 128
    named = {"a": "model-00001-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    assert read(tmp_path).parameters == 64


def test_without_safetensors_the_size_of_the_files_is_taken_and_without_any_the_shape(tmp_path: Path) -> None:
    assert read(folder(tmp_path)).weights.plain == read(tmp_path).shape.parameters
    assert "architecture" in read(tmp_path).source
    four = read(folder(tmp_path, quantization_config={"quant_method": "awq"}))
    assert four.weights.bytes_at(2) == round(four.parameters / 2)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(1000))
    assert read(folder(tmp_path)).weights.plain == 500
    (tmp_path / "model.Q4_K_M.gguf").write_bytes(bytes(100))
    assert (read(tmp_path).weights.packed_bytes, read(tmp_path).exact) == (100, False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        ((2).to_bytes(8, "little") + b"[]" + bytes(20), "header that cannot be read"),
        ((9).to_bytes(8, "little") + b'{"a": {}}' + bytes(20), "header that cannot be read"),
        ((9).to_bytes(8, "little") + b"\xff" * 9, "header that cannot be read"),
    ],
)
def test_a_damaged_file_is_told_by_its_name(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RequestInvalid, match=said) as refused:
        read(folder(tmp_path))
    assert refused.value.fields[0].field == "model"
    assert "model.safetensors" in refused.value.fields[0].description


def test_a_file_that_is_cut_short_is_told_with_both_sizes(tmp_path: Path) -> None:
    safetensors(tmp_path / "model.safetensors", EMBEDDINGS, missing=1)
    with pytest.raises(RequestInvalid, match=r"is cut short: \d+ of \d+ bytes"):
        header(tmp_path / "model.safetensors")


def test_a_shard_that_the_index_names_and_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(RequestInvalid, match=r"model-1\.safetensors cannot be read"):
        read(folder(tmp_path))


@pytest.mark.parametrize("config", ["{", "[]", None])
def test_a_folder_without_a_config_is_no_model(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(RequestInvalid, match=r"config\.json"):
        read(tmp_path)


def test_a_hub_id_is_found_where_hugging_face_keeps_it(tmp_path: Path) -> None:
    cache = hub_cache({"HF_HOME": str(tmp_path)})
    assert cache == tmp_path / "hub" == hub_cache({"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": "elsewhere"})
    place = cache / "models--owner--small"
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    assert find("owner/small", cache) is None, "the download has not come to the config"
    folder(snapshot)
    assert find("owner/small", cache) == snapshot
    assert read(snapshot, name="owner/small").name == "owner/small"
    assert find(str(snapshot), cache) == snapshot
    assert [find(name, cache) for name in ("owner/other", "../x", "7B@4", "")][:3] == [None] * 3
