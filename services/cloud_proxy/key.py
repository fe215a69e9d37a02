"""A provider's key: shown to nobody but the provider."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from spillway.logs import get_logger
from spillway.settings import SettingsError

log = get_logger(__name__)


class Key:
    """A secret whose text leaves only through `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the key. For the request's header alone."""
        return self._text

    def __repr__(self) -> str:
        return "<Key>"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not copied or stored")


def key_from_environment(name: str, environ: Mapping[str, str]) -> Key:
    """Return the key in variable `name`. Raises SettingsError if it holds none, without telling what it holds."""
    if not environ.get(name, "").strip():
        raise SettingsError(f"the environment variable {name} is not set")
    return Key(_usable(environ[name], name))


def key_from_file(file: Path) -> Key:
    """Return the key that `file` holds. Raises SettingsError if it holds none, without telling what it holds."""
    try:
        text = file.read_text()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {file}: {type(error).__name__}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("key.readable_by_others", file=str(file), advice="chmod 600")
    return Key(_usable(text, str(file)))


def _usable(text: str, place: str) -> str:
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise SettingsError(f"{place} holds no key: one line of printable ASCII without spaces is expected")
    return text
