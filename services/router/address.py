"""An address as a policy writes it: where to, and whether it stands for more than one target. Pure.

A form that gRPC resolves itself, `dns:///host:port`, `ipv4:10.0.0.7:7071,10.0.0.8:7071` or `ipv6:[fd00::7]:7071`,
stands for every address it resolves to; a plain `host:port` for one target, unless the target says `resolve`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

_FORMS = ("dns", "ipv4", "ipv6")
_ONE = ("unix", "unix-abstract", "vsock")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host, by name or by address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Written:
    """What an address says. `looked_up`: its one endpoint is a name, and others will be found behind it."""

    endpoints: tuple[Endpoint, ...]
    looked_up: bool


def stands_for_many(address: str, resolve: bool | None = None) -> bool:
    """Whether `address` stands for all it resolves to: by its form, unless its target says whether to `resolve` it."""
    if resolve is not None:
        return resolve
    form, _, rest = address.partition(":")
    return form in _FORMS and not _port(rest)


def written(address: str) -> Written:
    """Read `address`. Raises ValueError, with a sentence, where it cannot be resolved."""
    form, _, rest = address.partition(":")
    if not stands_for_many(address):
        if form in _ONE:
            raise ValueError(f"a {form} address is one target: remove `resolve`")
        return Written((_endpoint(address),), looked_up=True)
    if form == "dns":
        if rest.startswith("//"):
            server, _, rest = rest[2:].partition("/")
            if server:
                raise ValueError("names a DNS server, and the system's is asked: write dns:///host:port")
        return Written((_endpoint(rest),), looked_up=True)
    found = tuple(dict.fromkeys(map(_endpoint, rest.split(","))))
    kind = IPv4Address if form == "ipv4" else IPv6Address
    for each in found:
        if not isinstance(_ip(each.host), kind):
            raise ValueError(f"{each.host!r} is no {form} address")
    return Written(found, looked_up=False)


def alike(hosts: Iterable[str]) -> list[str]:
    """Return `hosts` sorted and each once; of a name that has both kinds of addresses the IPv4 ones.

    A host that has both is one host, and would be counted twice.
    """
    found = sorted({ip_address(host) for host in hosts}, key=lambda each: (each.version, each.packed))
    return [str(each) for each in found if each.version == found[0].version]


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    if not host or (number := _port(port)) is None or (":" in host) != (host[0] == "[" and host[-1] == "]"):
        raise ValueError(f"{text!r} is not host:port")
    return Endpoint(host.strip("[]"), number)


def _port(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else 0
    return number if 0 < number < 65536 else None


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
