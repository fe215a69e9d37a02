"""Files of keys are read again as they change."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.cloud_proxy.key_files import KeyFiles, read_keys
from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.settings import ProviderSettings
from spillway.settings import SettingsError
from spillway.testing.clock import HandClock


def provider(**more: object) -> ProviderSettings:
    return ProviderSettings.model_validate({"name": "openai", "region": "us", "models": [{"name": "m"}], **more})


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


def texts(files: KeyFiles) -> dict[str, str | None]:
    """What has changed once it has looked the same twice."""
    assert files.changes() == []
    return {source: None if key is None else key.reveal() for source, key in files.changes()}


def opened(folder: Path) -> KeyFiles:
    return read_keys("p", provider(keys_dir=folder), {})[1]


def test_keys_come_from_every_place_that_the_settings_name(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "second", "sk-folder-2")
    write(tmp_path / "folder" / "first", "sk-folder-1")
    write(tmp_path / "folder" / ".hidden", "no key at all")
    one, two = write(tmp_path / "one", "sk-one"), write(tmp_path / "two", "sk-two")
    settings = provider(key_file=one, keys=[{"env": "KEY"}, {"file": two}], keys_dir=tmp_path / "folder")
    keys, files = read_keys("p", settings, {"KEY": "sk-env"})
    assert keys is not None
    assert {source: key.reveal() for source, key in keys.items()} == {
        "env:KEY": "sk-env",
        f"file:{one}": "sk-one",
        f"file:{two}": "sk-two",
        "file:first": "sk-folder-1",
        "file:second": "sk-folder-2",
    }
    assert files
    assert read_keys("p", provider(), {})[0] is None
    assert not read_keys("p", provider(), {})[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"key_env": "NONE"}, r"p\.key_env: the environment variable NONE is not set"),
        ({"key_file": "/nowhere/key"}, r"p\.key_file: cannot read /nowhere/key"),
        ({"keys": [{"env": "A"}, {"env": "NONE"}]}, r"p\.keys\.1: the environment variable NONE is not set"),
        ({"keys": [{"file": "/nowhere/key"}]}, r"p\.keys\.0: cannot read /nowhere/key"),
        ({"keys_dir": "/nowhere"}, r"p\.keys_dir: /nowhere holds no file that is a key"),
    ],
)
def test_a_key_that_is_not_where_it_should_be_names_its_setting(settings: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_keys("p", provider(**settings), {"A": "sk-a"})


def test_a_file_that_changes_appears_or_goes_is_told_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "keys" / "a", "sk-a").parent
    files = opened(folder)
    assert texts(files) == {}
    write(folder / "a", "sk-a-2")
    write(folder / "b", "sk-b")
    assert texts(files) == {"file:a": "sk-a-2", "file:b": "sk-b"}
    (folder / "a").unlink()
    assert texts(files) == {"file:a": None}
    assert texts(files) == {}


def test_a_file_that_is_written_again_is_told_even_with_the_same_key(tmp_path: Path) -> None:
    file = write(tmp_path / "keys" / "a", "sk-a")
    files = opened(file.parent)
    os.utime(file, ns=(1, 1))
    assert texts(files) == {"file:a": "sk-a"}


def test_a_folder_of_kubernetes_secrets_is_swapped_by_a_link(tmp_path: Path) -> None:
    write(tmp_path / "..2026_01" / "openai", "sk-old")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "openai").symlink_to("..data/openai")
    files = opened(tmp_path)
    write(tmp_path / "..2026_02" / "openai", "sk-new")
    (tmp_path / "..new").symlink_to("..2026_02")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert texts(files) == {"file:openai": "sk-new"}


@pytest.mark.parametrize("text", ["", "sk-half written", "\n"])
def test_a_file_that_holds_no_key_leaves_the_key_before_it_and_is_told_once(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "keys" / "a", "sk-a")
    files = opened(file.parent)
    file.write_text(text)
    with capture_logs() as logs:
        assert texts(files) == {}
        assert texts(files) == {}
    assert [entry["event"] for entry in logs] == ["key.unusable"]
    assert "half" not in str(logs)
    write(file, "sk-b")
    assert texts(files) == {"file:a": "sk-b"}


def test_a_file_is_not_read_while_it_is_being_written(tmp_path: Path) -> None:
    file = write(tmp_path / "keys" / "a", "sk-a")
    files = opened(file.parent)
    for text in ("sk-", "sk-ne"):
        write(file, text)
        assert files.changes() == []
    write(file, "sk-new")
    assert texts(files) == {"file:a": "sk-new"}


def test_a_file_that_is_away_for_a_moment_is_not_gone(tmp_path: Path) -> None:
    file = write(tmp_path / "keys" / "a", "sk-a")
    files = opened(file.parent)
    file.unlink()
    assert files.changes() == []
    write(file, "sk-new")
    assert texts(files) == {"file:a": "sk-new"}


def test_what_is_no_file_in_a_folder_is_no_key(tmp_path: Path) -> None:
    folder = write(tmp_path / "keys" / "a", "sk-a").parent
    (folder / "more").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    files = opened(folder)
    assert dict(files.files()).keys() == {"file:a"}
    assert texts(files) == {}


async def test_the_keyring_goes_by_what_the_files_hold(tmp_path: Path) -> None:
    file = write(tmp_path / "keys" / "a", "sk-a")
    keys, files = await asyncio.to_thread(read_keys, "p", provider(keys_dir=file.parent), {})
    keyring = Keyring("openai", keys, clock=HandClock())
    file.unlink()
    write(file.parent / "b", "sk-b")
    for _ in range(2):
        await files.look(keyring)
    held = keyring.take()
    assert held.key is not None
    assert (held.source, held.key.reveal()) == ("file:b", "sk-b")
    assert "sk-" not in repr(files)
