"""Adapters come and go by name, within limits, and never under a request that uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.local_engine.adapter_source import Adapter, mismatch, wrong
from services.local_engine.adapters import Adapters
from services.local_engine.settings import AdapterSettings
from spillway.errors import AdapterUnknown, RequestInvalid, TargetDown
from spillway.settings import SettingsError
from spillway.testing.waiting import eventually

QUERY = "model.layers.0.self_attn.q_proj"
BASE = {f"{QUERY}.weight": (8, 8)}


@dataclass
class Loader:
    """A backend's loader: it keeps what it was given, when it may, and unless it `fails`."""

    loaded: list[Adapter] = field(default_factory=list)
    may: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    def __post_init__(self) -> None:
        self.may.set()

    async def load(self, adapter: Adapter) -> None:
        self.asked.set()
        await self.may.wait()
        if self.fails:
            raise wrong("path", "the engine cannot")
        self.loaded.append(adapter)

    async def unload(self, adapter: Adapter) -> None:
        self.asked.set()
        await self.may.wait()
        if self.fails:
            raise TargetDown("the engine died")
        self.loaded.remove(adapter)


def write(folder: Path, *, width: int = 8, told: object = None) -> Path:
    """An adapter of one matrix, rank 2, as safetensors lays it out."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2} if told is None else told))
    shapes: Mapping[str, list[int]] = {"lora_A": [2, width], "lora_B": [width, 2]}
    size = 4 * 2 * width
    header = {
        f"base_model.model.{QUERY}.{side}.weight": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [place * size, (place + 1) * size],
        }
        for place, (side, shape) in enumerate(shapes.items())
    }
    packed = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(packed).to_bytes(8, "little") + packed + bytes(2 * size))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write(tmp_path / "adapters" / name)
    return tmp_path / "adapters"


def adapters(folder: Path, loader: Loader, **settings: object) -> Adapters:
    told = AdapterSettings.model_validate({"folder": folder, "max_loaded": 2, "max_rank": 8, **settings})
    return Adapters(told, loader, BASE)


async def test_what_is_loaded_can_be_named_and_what_is_not_is_told_what_is(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader)
    await held.load("one", "a")
    await held.load("b", "")
    assert [(adapter.name, adapter.path, adapter.rank) for adapter in held.told()] == [("b", "b", 2), ("one", "a", 2)]
    with held.used("one"), held.used("one"), held.used(""):
        assert [adapter.running for adapter in held.told()] == [0, 2]
    with pytest.raises(AdapterUnknown, match="loaded: b, one"), held.used("c"):
        pass
    assert repr(held) == "<Adapters 2/2 b one>"


async def test_no_id_is_given_twice(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader)
    await held.load("a", "")
    first = loader.loaded[0].id
    await held.unload("a")
    await held.load("a", "")
    assert loader.loaded[0].id != first


async def test_a_limit_is_a_limit_also_for_those_that_are_being_loaded(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader, max_loaded=1)
    loader.may.clear()
    loading = asyncio.create_task(held.load("a", ""))
    await loader.asked.wait()
    with pytest.raises(RequestInvalid, match="unload it first"):
        await held.load("a", "")
    with pytest.raises(RequestInvalid, match="1 of at most 1"):
        await held.load("b", "")
    assert held.names == []
    loader.may.set()
    await loading
    assert held.names == ["a"]


async def test_what_could_not_be_loaded_leaves_its_place(folder: Path) -> None:
    loader = Loader(fails=True)
    held = adapters(folder, loader, max_loaded=1)
    with pytest.raises(RequestInvalid, match="the engine cannot"):
        await held.load("a", "")
    loader.fails = False
    await held.load("a", "")
    assert held.names == ["a"]


async def test_who_leaves_while_one_is_loaded_finds_it_loaded_later(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader)
    loader.may.clear()
    loading = asyncio.create_task(held.load("a", ""))
    await loader.asked.wait()
    loading.cancel()
    await asyncio.wait([loading])
    loader.may.set()
    await eventually(lambda: held.names == ["a"])


async def test_one_in_use_takes_no_more_and_goes_with_its_last_request(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader)
    await held.load("a", "")
    with held.used("a"):
        unloading = asyncio.create_task(held.unload("a"))
        await eventually(lambda: held.told()[0].unloading)
        with pytest.raises(AdapterUnknown, match="no adapters"), held.used("a"):
            pass
        with pytest.raises(AdapterUnknown):
            await held.unload("a")
        assert loader.loaded
    await unloading
    assert not loader.loaded
    assert held.told() == []


async def test_one_that_nobody_waits_for_any_more_stays(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader)
    await held.load("a", "")
    with held.used("a"):
        unloading = asyncio.create_task(held.unload("a"))
        await eventually(lambda: held.told()[0].unloading)
        unloading.cancel()
        await asyncio.wait([unloading])
        with held.used("a"):
            assert [(told.running, told.unloading) for told in held.told()] == [(2, False)]


async def test_one_that_could_not_be_unloaded_is_still_there(folder: Path) -> None:
    loader = Loader()
    held = adapters(folder, loader)
    await held.load("a", "")
    loader.fails = True
    with pytest.raises(TargetDown):
        await held.unload("a")
    assert held.names == ["a"]


async def test_what_the_settings_name_and_cannot_be_had_is_a_wrong_setting(folder: Path) -> None:
    held = adapters(folder, Loader(), load={"one": "a", "two": "nowhere"})
    with pytest.raises(SettingsError, match=r"local_engine\.vllm\.adapters\.load\.two: path: there is no nowhere"):
        await held.start()
    assert held.names == ["one"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, "names no rank"),
        ([], "names no rank"),
        ({"r": "2"}, "names no rank"),
        ({"r": 0}, "names no rank"),
        ({"r": 9}, "has the rank 9"),
        ({"r": 2, "rank_pattern": {"q_proj": 64}}, "has the rank 64"),
    ],
)
async def test_a_configuration_that_is_none_or_a_rank_too_high_is_refused(folder: Path, told: object, why: str) -> None:
    write(folder / "odd", told=told)
    await _refused(folder, "odd", why)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere", "there is no nowhere"),
        (".", "not below"),
        ("a/../..", "not below"),
        ("/etc", "not below"),
        ("out", "not below"),
        ("stolen", "not below"),
        ("a\0b", "cannot be read"),
        ("wide", "made for 16"),
        ("empty", "there is no empty/adapter_config.json"),
    ],
)
async def test_a_folder_that_is_elsewhere_or_no_adapter_of_this_model_is_refused(
    folder: Path, path: str, why: str
) -> None:
    outside = write(folder.parent / "outside")
    (folder / "out").symlink_to(outside)
    (folder / "stolen").mkdir()
    for file in outside.iterdir():
        (folder / "stolen" / file.name).symlink_to(file)
    write(folder / "wide", width=16)
    (folder / "empty").mkdir()
    await _refused(folder, path, why)


async def _refused(folder: Path, path: str, why: str) -> None:
    loader = Loader()
    with pytest.raises(RequestInvalid, match=why) as refusal:
        await adapters(folder, loader).load("one", path)
    assert [violation.field for violation in refusal.value.fields] == ["path"]
    assert not loader.loaded


def test_an_adapter_fits_a_model_whose_matrices_are_as_wide_and_that_has_its_layers() -> None:
    def one(module: str, wide: int = 8) -> dict[str, tuple[int, ...]]:
        place = f"base_model.model.{module}"
        return {f"{place}.lora_A.weight": (2, wide), f"{place}.lora_B.weight": (wide, 2)}

    assert not mismatch(one(QUERY), BASE)
    assert "8 x 8" in mismatch(one(QUERY, 4), BASE)
    assert mismatch(one(QUERY.replace("0", "1")), BASE) == "this one has no model.layers.1.self_attn.q_proj"
    assert not mismatch(one("model.layers.0.mlp.experts"), BASE)
    assert not mismatch(one(QUERY, 4), {})
    assert not mismatch({"base_model.model.score.weight": (1, 1)}, BASE)
