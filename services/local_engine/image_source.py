"""Where the bytes of an image come from: the request itself, or a host that the settings list.

Fetching is a way into the site's own network, and tells others what is asked here: nothing is fetched unless the owner
lists the host, and then nothing but that host is asked: no redirect, no proxy, no cookie.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from services.local_engine.settings import ImageSettings
from services.local_engine.support import invalid, unsupported
from spillway import v1

NAT64 = ipaddress.ip_network("64:ff9b::/96")
IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
LONGEST_BYTE = 3
"""Characters of a data URL that may say one byte: %41."""
LONGEST_HEAD = 1024


async def image_bytes(image: v1.Image, field: str, settings: ImageSettings) -> bytes:
    """Return the bytes of the image at `field` of a request.

    Raises RequestInvalid where there are none, or too many; ConstraintUnsupported for a URL that is not fetched.
    """
    if image.WhichOneof("source") != "url":
        if not image.mime_type.startswith("image/"):
            raise invalid(f"{field}.mime_type", "is the type of an image: image/png, for example")
        data, source = image.data, f"{field}.data"
    elif image.url.startswith("data:"):
        if len(image.url) > settings.max_bytes * LONGEST_BYTE + LONGEST_HEAD:
            raise invalid(f"{field}.url", f"is too long; at most {settings.max_bytes} bytes are accepted")
        # Percent signs take seconds where there are millions.
        data, source = await asyncio.to_thread(_inline, image.url, field), f"{field}.url"
    else:
        data, source = await _fetched(image.url, f"{field}.url", settings), f"{field}.url"
    if not data:
        raise invalid(source, "is empty")
    if len(data) > settings.max_bytes:
        raise invalid(source, f"has {len(data)} bytes; at most {settings.max_bytes} are accepted")
    return data


def is_public(address: str) -> bool:
    """Whether `address` is of the Internet, and so is the one that a gateway makes of it."""
    told = ipaddress.ip_address(address)
    if isinstance(told, ipaddress.IPv6Address):
        within = told.ipv4_mapped or told.sixtofour
        if told in NAT64 or told in IPV4_COMPATIBLE:
            within = ipaddress.IPv4Address(int(told) & 0xFFFFFFFF)
        if within is not None:
            return is_public(str(within))
        if told.is_site_local:
            return False
    return told.is_global and not told.is_multicast


def _inline(url: str, field: str) -> bytes:
    head, comma, data = url.removeprefix("data:").partition(",")
    if not comma:
        raise invalid(f"{field}.url", "is not data:TYPE;base64,DATA")
    if not head.endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:  # also for what is not ASCII
        raise invalid(f"{field}.url", "its data is not base64") from None


def listed(url: str, field: str, hosts: Collection[str]) -> URL:
    """Return `url`, of an image at `field`, as it is to be asked. Raises where its host is not one of `hosts`."""
    try:
        told = URL(url)  # what is looked at is what is asked: two parsers may find two hosts in one text
    except ValueError:
        raise invalid(field, "is not a URL") from None
    if told.scheme not in ("http", "https") or not told.host or told.user is not None or told.password is not None:
        raise invalid(field, "must be https://..., http://... or data:..., without user or password")
    if told.host not in hosts:
        raise unsupported(field, "images of this host are not fetched here: send the image itself, as data")
    return told


async def _fetched(url: str, field: str, settings: ImageSettings) -> bytes:
    told = listed(url, field, settings.fetch_from)
    try:
        # A session for each: none outlives its loop, and images by URL are rare.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_Guard(settings.fetch_from)),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=settings.fetch_s),
            ) as session,
            session.get(told, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise invalid(field, f"its host answers {response.status}, and a redirect is not followed")
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > settings.max_bytes:
                    break
            return bytes(data)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise invalid(field, f"cannot be fetched ({type(error).__name__})") from None


class _Guard(AbstractResolver):
    """Resolves to public addresses, and to `listed` ones: a name must not lead into the site by itself."""

    def __init__(self, listed: frozenset[str]) -> None:
        self._listed = listed
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if is_public(one["host"]) or one["host"] in self._listed]
        if not allowed:
            raise OSError(f"{host} has no public address")
        return allowed

    async def close(self) -> None:
        await self._inner.close()
