from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.router.http.listener import listening
from spillway.reservation import Reservation
from spillway.rpc.server import Server
from spillway.settings import ServerSettings, SettingsError
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services

ANY = "127.0.0.1:0"


@pytest.fixture
def reservation() -> Iterator[Reservation]:
    with Reservation() as found:
        yield found


def test_a_free_port_is_chosen_once_for_each_listener(reservation: Reservation) -> None:
    first, second = reservation.hold("server.listen", ANY), reservation.hold("http.listen", ANY)
    assert first == reservation.hold("server.listen", ANY) != second
    assert int(first.rpartition(":")[2]) > 0


def test_those_who_share_a_port_can_have_what_is_held_and_who_does_not_is_refused(reservation: Reservation) -> None:
    listen = reservation.hold("http.listen", ANY)
    host, _, port = listen.rpartition(":")
    with listening(host, int(port), reuse_port=True), listening(host, int(port), reuse_port=True):
        pass
    with pytest.raises(OSError, match="cannot listen on"):
        listening(host, int(port))
    with Reservation() as another, pytest.raises(OSError, match="cannot listen on"):
        another.hold("http.listen", listen)


async def test_a_server_alone_is_refused_a_port_that_workers_share_and_workers_one_that_it_has(mesh: object) -> None:
    alone = Server(ServerSettings(listen=ANY), services(FakeEngine()), tracing=Tracing("test"))
    await alone.start()
    try:
        with Reservation() as reservation, pytest.raises(OSError, match="cannot listen on"):
            reservation.hold("server.listen", alone.address)
        late = Server(ServerSettings(listen=alone.address), services(FakeEngine()), tracing=Tracing("test"))
        with pytest.raises(OSError, match="cannot listen on"):
            await late.start()
    finally:
        await alone.close()


@pytest.mark.parametrize("listen", ["unix:/run/router.sock", "somewhere", "127.0.0.1:70000"])
def test_what_is_no_port_cannot_be_shared(reservation: Reservation, listen: str) -> None:
    with pytest.raises(SettingsError, match=r"^server\.listen: .*workers share a port"):
        reservation.hold("server.listen", listen)
