"""The policy file: read at the start, and again whenever what it says has changed.

A document is put in force as a whole or not at all: a bad one changes nothing and says why. The content is compared,
not the file's date, so an editor's rename, a mounted ConfigMap and a network drive are all seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from spillway.logs import get_logger
from spillway.settings import SettingsError

from .policy_document import Finding, Opened, read
from .rulebook import Rulebook

log = get_logger(__name__)


class PolicyFile:
    """Watches one file."""

    def __init__(self, path: Path, every_s: float) -> None:
        self.path = path
        self._every_s = every_s
        self._seen: bytes | None = None
        self.findings: tuple[Finding, ...] = ()
        """On the file as it was last read."""
        self._looking = asyncio.Lock()
        self.adopt: Callable[[Rulebook], Awaitable[object]] | None = None
        """Told each new rulebook; one is in force before the next is read."""

    def start(self) -> Rulebook:
        """Read the file for the first time. Raises SettingsError where it cannot be put in force."""
        try:
            self._seen = self.path.read_bytes()
        except OSError as error:
            raise SettingsError(f"router.policy_file: cannot read {self.path}: {error.strerror}") from None
        opened = read(self._seen)
        self.findings = opened.findings
        return opened.in_force(f"{self.path}: ")

    async def watch(self) -> None:
        """Look at the file for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Read the file; if it has changed and nothing is wrong with it, it is in force now."""
        async with self._looking:
            try:
                content = await asyncio.to_thread(self.path.read_bytes)
            except OSError as error:
                await self._take(None, Opened((Finding("policy_file", f"cannot be read: {error.strerror}"),)))
                return
            if content != self._seen:
                await self._take(content, await asyncio.to_thread(read, content))

    async def _take(self, content: bytes | None, opened: Opened) -> None:
        known = self.findings
        if opened.book is not None and self.adopt is not None:
            await self.adopt(opened.book)
        self.findings, self._seen = opened.findings, content  # after it: who leaves meanwhile has taken nothing
        if opened.book is not None:
            log.info("policy.adopted", path=str(self.path), revision=opened.book.revision)
        elif opened.findings != known:
            log.error("policy.refused", path=str(self.path), findings=[str(finding) for finding in opened.findings])

    def __repr__(self) -> str:
        return f"<PolicyFile {self.path} {len(self.findings)} findings>"
