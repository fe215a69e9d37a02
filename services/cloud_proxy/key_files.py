"""The files that hold keys, read again as they change.

They are looked at, not watched by inotify: a folder of Kubernetes' secrets is swapped by a symbolic link (`..data`) two
levels away from its files, and some file systems tell nothing. What counts is what the links lead to in the end.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.cloud_proxy.key import Key, key_from_environment, key_from_file
from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.settings import ProviderSettings
from spillway.logs import get_logger
from spillway.settings import SettingsError

log = get_logger(__name__)

LOOK_S = 1.0

Stamp = tuple[int, int, int]
"""Time of the last change in ns, size, inode: of what symbolic links lead to."""


class KeyFiles:
    """Files that are keys: those listed, by their sources, and every one in `folder`."""

    def __init__(self, listed: Mapping[str, Path], folder: Path | None) -> None:
        self._listed = dict(listed)
        self._folder = folder
        self._read: dict[str, Stamp] = {}
        self._before: dict[str, Stamp] = {}

    def __bool__(self) -> bool:
        return bool(self._listed) or self._folder is not None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield all there are now, by their sources."""
        yield from self._listed.items()
        if self._folder is None:
            return
        try:
            names = sorted(file.name for file in self._folder.iterdir() if not file.name.startswith("."))
        except OSError:
            return  # as if it were empty: all its keys are gone
        for name in names:
            if _stamp(file := self._folder / name):
                yield f"file:{name}", file

    def first(self, source: str, file: Path) -> Key:
        """Read the key of `source` before anything is known of it. Raises SettingsError if `file` holds none."""
        if stamp := _stamp(file):  # taken before it is read: what changes in between is seen at the next look
            self._read[source] = self._before[source] = stamp
        return key_from_file(file)

    def changes(self) -> list[tuple[str, Key | None]]:
        """Look once; return what is held now where that has changed, None for a file that is gone.

        A change counts once it has looked the same twice: a file may be half written, or be gone for the moment between
        the old one and the new. One that then holds no key leaves the key before it as it is.
        """
        files = dict(self.files())
        now = {source: stamp for source, file in files.items() if (stamp := _stamp(file))}
        found: list[tuple[str, Key | None]] = []
        for source in {**self._read, **now}:
            stamp = now.get(source)
            if stamp == self._read.get(source) or stamp != self._before.get(source):
                continue
            if stamp is None:
                del self._read[source]
                found.append((source, None))
                continue
            self._read[source] = stamp
            try:
                found.append((source, key_from_file(files[source])))
            except SettingsError as error:
                log.warning("key.unusable", source=source, why=str(error), consequence="the key before it stays")
        self._before = now
        return found

    async def look(self, keyring: Keyring) -> None:
        """Tell `keyring` what has changed. The disk is read in a thread."""
        for source, key in await asyncio.to_thread(self.changes):
            keyring.put(source, key)

    async def keep_looking(self, keyring: Keyring) -> None:
        """Look every LOOK_S seconds, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look(keyring)

    def __repr__(self) -> str:
        return f"<KeyFiles {len(self._read)} read, {len(self._listed)} listed, folder {self._folder}>"


def _stamp(file: Path) -> Stamp | None:
    try:
        told = file.stat()
    except OSError:
        return None
    return (told.st_mtime_ns, told.st_size, told.st_ino) if stat.S_ISREG(told.st_mode) else None


def read_keys(
    path: str, provider: ProviderSettings, environ: Mapping[str, str]
) -> tuple[dict[str, Key] | None, KeyFiles]:
    """Return the keys of the provider at `path` of the settings, by their sources, and the files to look at again.

    None: it has none configured. Raises SettingsError where a key should be and is none.
    """
    told = [("key_env", provider.key_env, None), ("key_file", None, provider.key_file)]
    told += [(f"keys.{at}", key.env, key.file) for at, key in enumerate(provider.keys)]
    keys: dict[str, Key] = {}
    for setting, env, _ in told:
        if env is not None:
            with _at(f"{path}.{setting}"):
                keys[f"env:{env}"] = key_from_environment(env, environ)
    listed = {f"file:{file}": (setting, file) for setting, _, file in told if file is not None}
    files = KeyFiles({source: file for source, (_, file) in listed.items()}, provider.keys_dir)
    found = dict(files.files())
    if provider.keys_dir is not None and found.keys() <= listed.keys():
        raise SettingsError(f"{path}.keys_dir: {provider.keys_dir} holds no file that is a key")
    for source, file in found.items():
        with _at(f"{path}.{listed[source][0] if source in listed else 'keys_dir'}"):
            keys[source] = files.first(source, file)
    return keys or None, files


@contextmanager
def _at(setting: str) -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{setting}: {error}") from None
