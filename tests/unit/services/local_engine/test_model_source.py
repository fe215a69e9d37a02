"""A wrong model is told before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.local_engine.model_source import require, weights_bytes
from services.local_engine.settings import BUNDLED_MODEL, LocalEngineSettings
from spillway.settings import SettingsError


def folder(place: Path, **files: str) -> Path:
    for name, content in files.items():
        (place / name.replace("__", ".")).write_text(content)
    return place


WHOLE = {"config__json": '{"model_type": "llama"}', "model__safetensors": "weights", "tokenizer__json": "{}"}


def test_a_whole_folder_and_a_hub_id_pass(tmp_path: Path) -> None:
    require(str(folder(tmp_path, **WHOLE)))
    require("some-owner/some-model.v2")
    assert weights_bytes(str(tmp_path)) == len("weights")
    assert weights_bytes("some-owner/some-model") == 0


@pytest.mark.parametrize("missing", sorted(WHOLE))
def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(tmp_path: Path, missing: str) -> None:
    folder(tmp_path, **{name: content for name, content in WHOLE.items() if name != missing})
    with pytest.raises(SettingsError, match=r"local_engine\.model: .*this folder is no model"):
        require(str(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_config", "generation_config"])
def test_half_a_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"this folder is no model: {name}\.json is not JSON"):
        require(str(folder(tmp_path, **{**WHOLE, f"{name}__json": '{"model": '})))


@pytest.mark.parametrize("config", ["{", "[]", "{}"])
def test_a_config_that_names_no_architecture_is_refused(tmp_path: Path, config: str) -> None:
    with pytest.raises(SettingsError, match="this folder is no model"):
        require(str(folder(tmp_path, **{**WHOLE, "config__json": config})))


@pytest.mark.parametrize("model", ["/no/such/folder", "./there", "nonsense", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(SettingsError, match="no such folder"):
        require(model)


def test_a_model_is_called_after_where_it_comes_from(tmp_path: Path) -> None:
    assert LocalEngineSettings().name == "bundled"
    assert LocalEngineSettings().model == str(BUNDLED_MODEL)
    assert LocalEngineSettings(model=str(tmp_path)).name == tmp_path.name
    assert LocalEngineSettings(model="owner/small").name == "owner/small"
    assert LocalEngineSettings(model="owner/small", served_name="mine").name == "mine"
