"""An address as a policy writes it."""

from __future__ import annotations

import pytest

from services.router.address import alike, stands_for_many, written


@pytest.mark.parametrize(
    ("address", "endpoints", "looked_up"),
    [
        ("dns:///engines.ai:7071", ["engines.ai:7071"], True),
        ("dns:engines.ai:7071", ["engines.ai:7071"], True),
        ("ipv4:10.0.0.7:7071,10.0.0.8:7072,10.0.0.7:7071", ["10.0.0.7:7071", "10.0.0.8:7072"], False),
        ("ipv6:[fd00::7]:7071,[fd00::8]:7071", ["[fd00::7]:7071", "[fd00::8]:7071"], False),
    ],
)
def test_a_form_that_grpc_resolves_stands_for_all_it_resolves_to(
    address: str, endpoints: list[str], looked_up: bool
) -> None:
    assert stands_for_many(address)
    assert ([str(each) for each in written(address).endpoints], written(address).looked_up) == (endpoints, looked_up)


def test_a_plain_address_is_one_target_unless_it_is_to_be_resolved() -> None:
    for address in ("engines.ai:7071", "127.0.0.1:7071", "[::1]:7071", "dns:7071", "unix:/run/engine.sock"):
        assert not stands_for_many(address)
        assert stands_for_many(address, resolve=True)
    assert not stands_for_many("dns:///engines.ai:7071", resolve=False)
    assert written("engines.ai:7071").looked_up


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("dns:///engines.ai", "'engines.ai' is not host:port"),
        ("dns://10.0.0.1/engines.ai:7071", "names a DNS server"),
        ("dns:///engines.ai:99999", "is not host:port"),
        ("dns:///fd00::7", "is not host:port"),
        ("ipv4:engines.ai:7071", "'engines.ai' is no ipv4 address"),
        ("ipv6:10.0.0.7:7071", "'10.0.0.7' is no ipv6 address"),
        ("unix:/run/engine.sock", "a unix address is one target"),
    ],
)
def test_an_address_that_cannot_be_resolved_says_why(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        written(address)


def test_a_host_with_both_kinds_of_addresses_is_counted_once() -> None:
    assert alike(["fd00::7", "10.0.0.8", "10.0.0.7", "10.0.0.8"]) == ["10.0.0.7", "10.0.0.8"]
    assert alike(["fd00::8", "fd00::7"]) == ["fd00::7", "fd00::8"]
    assert alike([]) == []
