"""Free ports on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a free port for every name: the one wanted, else one the system gives. All are different."""
    chosen = {name: port for name, port in wanted.items() if is_free(port)}
    missing = [name for name in wanted if name not in chosen]
    chosen.update(zip(missing, _given(len(missing), set(chosen.values())), strict=True))
    return {name: chosen[name] for name in wanted}


def _given(count: int, taken: Iterable[int]) -> list[int]:
    """Return `count` ports nobody uses; all are held until the last is known, so that none comes twice."""
    found: list[int] = []
    held = []
    try:
        while len(found) < count:
            held.append(probe := socket.socket())
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
            if port not in taken:
                found.append(port)
    finally:
        for probe in held:
            probe.close()
    return found
