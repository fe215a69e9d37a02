"""Keys are read once and shown to nobody."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.cloud_proxy.key import Key, read_key
from spillway.settings import SettingsError

SECRET = "sk-very-secret"


def test_a_key_does_not_show_itself() -> None:
    key = Key(SECRET)
    assert SECRET not in f"{key} {key!r} {[key]} {key!s}"
    assert key.reveal() == SECRET
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    with capture_logs() as logs:
        read = read_key("p", env=None, file=file, environ={})
    assert read is not None
    assert read.reveal() == SECRET
    assert not logs
    named = read_key("p", env="KEY", file=None, environ={"KEY": SECRET})
    assert named is not None
    assert named.reveal() == SECRET
    assert read_key("p", env=None, file=None, environ={}) is None


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    file.chmod(0o644)
    with capture_logs() as logs:
        read_key("p", env=None, file=file, environ={})
    assert [entry["event"] for entry in logs] == ["key.readable_by_others"]


@pytest.mark.parametrize("text", ["", f"{SECRET}\r\nx-evil: 1", f"{SECRET} two", "schlüssel-sk"])
def test_what_is_no_key_is_refused_without_telling_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=r"cloud_proxy\.providers\.0\.key_file") as caught:
        read_key("cloud_proxy.providers.0", env=None, file=file, environ={})
    assert SECRET not in str(caught.value)


def test_a_missing_key_names_its_setting() -> None:
    with pytest.raises(SettingsError, match=r"p\.key_env: the environment variable NONE is not set"):
        read_key("p", env="NONE", file=None, environ={})
    with pytest.raises(SettingsError, match=r"p\.key_file: cannot read"):
        read_key("p", env=None, file=Path("/nowhere/key"), environ={})
