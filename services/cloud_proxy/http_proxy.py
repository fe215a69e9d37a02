"""The HTTP proxy between us and a provider."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from spillway.settings import SettingsError

HEADER = "proxy-authorization"


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """Where it is, without user and password; `headers` hold those, for its eyes alone."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def at(cls, url: str) -> HttpProxy:
        """Return the proxy at `url`, http(s)://[user:password@]host:port."""
        parts = urlsplit(url)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if parts.username is None:
            return cls(address)
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(address, {HEADER: f"Basic {b64encode(pair.encode()).decode()}"})


def is_address(url: str) -> bool:
    """Return whether `url` names a server that speaks HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def from_environment(base_url: str, environ: Mapping[str, str]) -> HttpProxy | None:
    """Return the proxy that HTTPS_PROXY or HTTP_PROXY sets for `base_url`, None where NO_PROXY or nothing sets one.

    Names in lower case come first, as elsewhere. Raises SettingsError for what is no proxy; the message never tells it.
    """
    parts = urlsplit(base_url)
    name = f"{parts.scheme}_proxy"
    url = environ.get(name) or environ.get(name.upper())
    passed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if not url or _passed(parts, passed):
        return None
    whole = url if "://" in url else f"http://{url}"
    if not is_address(whole):
        raise SettingsError(f"{name.upper()} is not http://host:port or https://host:port")
    return HttpProxy.at(whole)


def _passed(url: SplitResult, told: str) -> bool:
    """Return whether NO_PROXY as `told` names the host of `url`, a domain above it, its host:port, or all (*)."""
    host = (url.hostname or "").lower()
    for one in told.lower().split(","):
        name = one.strip().lstrip(".")
        if name and (name in ("*", host, f"{host}:{url.port}") or host.endswith(f".{name}")):
            return True
    return False
