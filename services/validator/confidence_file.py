"""The calibrated model in force: that of a file over those of the package, for the bundled language model and for all.

The file is read at the start, and again whenever what it says has changed; a bad one changes nothing. The content is
compared, not the file's date, so an editor's rename and a mounted ConfigMap are seen.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.validator.confidence.artefact import BUNDLED, MAX_BYTES, PLAIN, ArtefactInvalid, read
from services.validator.confidence.model import Model
from services.validator.settings import ConfidenceSettings
from spillway.logs import get_logger
from spillway.settings import SettingsError

log = get_logger(__name__)


class ConfidenceFile:
    """Holds the model, and watches the file where there is one. Raises SettingsError where it cannot be read."""

    def __init__(self, settings: ConfidenceSettings) -> None:
        self._path = settings.model_file
        self._every_s = settings.reload_s
        self._default = read(BUNDLED.read_bytes()).over(read(PLAIN.read_bytes()))
        self._seen: bytes | None = None
        self._complaint = ""
        self.model: Model = self._default
        if self._path is not None:
            try:
                self._seen = _content(self._path)
                self.model = read(self._seen).over(self._default)
            except (OSError, ArtefactInvalid) as error:
                raise SettingsError(f"validator.confidence.model_file: {self._path}: {_why(error)}") from None

    async def watch(self) -> None:
        """Look at the file for ever; return at once where there is none."""
        while self._path is not None:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Read the file; if it has changed and nothing is wrong with it, it is in force now."""
        if self._path is None:
            return
        try:
            content = await asyncio.to_thread(_content, self._path)
            if content == self._seen:
                return
            self._seen = content
            self.model = (await asyncio.to_thread(read, content)).over(self._default)
        except (OSError, ArtefactInvalid) as error:
            if (why := _why(error)) != self._complaint:
                log.error("confidence.refused", path=str(self._path), why=why)
            self._complaint = why
            return
        self._complaint = ""
        log.info("confidence.adopted", path=str(self._path), model=repr(self.model))

    def __repr__(self) -> str:
        return f"<ConfidenceFile {self._path or 'default'} {self.model!r}>"


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _why(error: OSError | ArtefactInvalid) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
