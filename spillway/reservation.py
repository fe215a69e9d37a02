"""Ports that several processes are to share, held while they come and go."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Self

from spillway.settings import SettingsError

LAST = 2**16 - 1
"""The highest port; the system takes what is left of a higher one, another port."""


class Reservation:
    """Holds ports for the block. It listens on none, so no connection comes here."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._sockets = ExitStack()

    def hold(self, name: str, listen: str) -> str:
        """Return `listen` (host:port) with its real port, which those who set SO_REUSEPORT can have from now on.

        `name` is what it is for. Raises OSError naming the address if it is taken, SettingsError if it is none.
        """
        if name not in self._held:
            host, _, port = listen.rpartition(":")
            if not port.isdecimal() or int(port) > LAST:
                raise SettingsError(f"{name}: {listen}: workers share a port: host:port is needed")
            self._held[name] = f"{host}:{self._bind(host.strip('[]'), int(port))}"
        return self._held[name]

    def _bind(self, host: str, port: int) -> int:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            held = self._sockets.enter_context(socket.socket(family, kind, protocol))
            # Bound as one who shares with nobody, so that a port in use is refused; shared only then.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(address)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        return int(held.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.close()

    def __repr__(self) -> str:
        return f"<Reservation {', '.join(self._held.values()) or 'of nothing'}>"
