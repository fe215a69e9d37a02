"""Keys are shown to nobody."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.cloud_proxy.key import Key, key_from_environment, key_from_file
from spillway.settings import SettingsError

SECRET = "sk-very-secret"


def test_a_key_does_not_show_itself() -> None:
    key = Key(SECRET)
    assert SECRET not in f"{key} {key!r} {[key]} {key!s}"
    assert key.reveal() == SECRET
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(key)


def test_a_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    with capture_logs() as logs:
        assert key_from_file(file).reveal() == SECRET
    assert not logs
    assert key_from_environment("KEY", {"KEY": SECRET}).reveal() == SECRET


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    file.chmod(0o644)
    with capture_logs() as logs:
        key_from_file(file)
    assert [entry["event"] for entry in logs] == ["key.readable_by_others"]


@pytest.mark.parametrize("text", ["", f"{SECRET}\r\nx-evil: 1", f"{SECRET} two", "schlüssel-sk"])
def test_what_is_no_key_is_refused_without_telling_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=r"key holds no key") as caught:
        key_from_file(file)
    assert SECRET not in str(caught.value)


def test_a_key_that_is_not_there_is_an_error_that_says_where() -> None:
    with pytest.raises(SettingsError, match=r"the environment variable NONE is not set"):
        key_from_environment("NONE", {})
    with pytest.raises(SettingsError, match=r"cannot read /nowhere/key"):
        key_from_file(Path("/nowhere/key"))
