"""Callers' keys: a file of hashes, each with its tenant and scopes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field, ValidationError

from spillway.errors import KeyUnknown, ScopeMissing
from spillway.rpc.call import Caller
from spillway.rpc.defaults import NONE, Defaults
from spillway.settings import Section, SettingsError, explain, read_yaml

GENERATE, ROUTE, ADMIN = "generate", "route", "admin"


class KeyEntry(Section):
    """One key of the file."""

    name: str = Field(description="how logs call this key")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hex digest of the key")
    tenant: str
    scopes: frozenset[str] = frozenset({GENERATE})
    defaults: Defaults = Field(NONE, description="what its requests get where they say nothing")


class KeyFile(Section):
    """The file of keys."""

    keys: list[KeyEntry]


class KeyRing:
    """Knows callers by the hash of their key."""

    def __init__(self, entries: list[KeyEntry]) -> None:
        self._callers = {entry.sha256: _caller(entry) for entry in entries}

    @classmethod
    def read(cls, path: Path) -> KeyRing:
        """Read `keys: [{name, sha256, tenant, scopes, defaults}, ...]`; raises SettingsError."""
        try:
            entries = KeyFile.model_validate(read_yaml(path)).keys
        except ValidationError as error:
            raise SettingsError(explain(error, str(path))) from None
        hashes = [entry.sha256 for entry in entries]
        if twice := sorted({entry.name for entry in entries if hashes.count(entry.sha256) > 1}):
            raise SettingsError(f"{path}: keys: one key has several entries: {', '.join(twice)}")
        return cls(entries)

    def identify(self, authorization: str | None, scope: str) -> Caller:
        """Return whose key `authorization` (`Bearer KEY`) is; raises KeyUnknown, or ScopeMissing without `scope`."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise KeyUnknown("this server asks for a key: send metadata `authorization: Bearer KEY`")
        caller = self._callers.get(hash_key(key.strip()))
        if caller is None:
            raise KeyUnknown("this key is not known here")
        if scope not in caller.scopes:
            raise ScopeMissing(f"key {caller.key_name!r} lacks the scope {scope!r} asked for here")
        return caller

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._callers)} keys>"


def _caller(entry: KeyEntry) -> Caller:
    return Caller(entry.tenant, entry.name, entry.scopes, entry.defaults)


def hash_key(key: str) -> str:
    """Return the hex digest under which a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()
