"""IP addresses, except those that say nothing of a network: loopback, unspecified, masks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from services.validator.sensitive.span import Certainty, Context, Span

_V4 = re.compile(r"[0-9](?<![\w.-].)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![\w-])(?!\.[0-9])")
_V6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4})?(?![\w:])")
_COLONS = re.compile(r":(?=[0-9A-Fa-f]{0,4}:)")
_GROUP = re.compile(r"[0-9A-Fa-f]{0,4}\Z")
_VERSIONS = frozenset({"version", "release", "section", "chapter", "build", "firmware"})


def ip_addresses(text: str) -> Iterator[Span]:
    """Find addresses of both versions."""
    versions = Context(_VERSIONS, text)
    for match in _V4.finditer(text):
        if _names_a_host(match[0]) and not versions.before(match.start(), within=2):
            yield Span(match.start(), match.end(), "ip_address", "ip_address.v4", Certainty.FORM)
    for colon in _COLONS.finditer(text):
        group = _GROUP.search(text[max(0, colon.start() - 4) : colon.start()])
        found = _V6.match(text, colon.start() - len(group[0])) if group else None
        if found and _is_v6(found[0]):
            yield Span(found.start(), found.end(), "ip_address", "ip_address.v6", Certainty.FORM)


def _names_a_host(written: str) -> bool:
    try:
        address = IPv4Address(written)
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or written.startswith("255."))


def _is_v6(written: str) -> bool:
    """Whether it is one, and not a ratio, a time, or `abc::def` of a program."""
    if not re.search(r"[0-9A-Fa-f]{3}", written) or not re.search(r"[0-9]", written):
        return False
    try:
        address = IPv6Address(written)
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)
