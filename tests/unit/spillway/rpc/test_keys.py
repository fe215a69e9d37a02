from __future__ import annotations

from pathlib import Path

import pytest

from spillway.errors import KeyUnknown, ScopeMissing
from spillway.rpc.call import Caller
from spillway.rpc.keys import GENERATE, ROUTE, KeyEntry, KeyRing, hash_key
from spillway.settings import SettingsError


def ring() -> KeyRing:
    return KeyRing([KeyEntry(name="shop", sha256=hash_key("s3cret"), tenant="acme")])


def test_a_known_key_tells_who_calls() -> None:
    assert ring().identify("Bearer s3cret", GENERATE) == Caller("acme", "shop", frozenset({GENERATE}))
    assert ring().identify("bearer  s3cret ", GENERATE).tenant == "acme"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic s3cret", "s3cret"])
def test_anything_else_is_refused(authorization: str | None) -> None:
    with pytest.raises(KeyUnknown):
        ring().identify(authorization, GENERATE)


def test_a_key_without_the_scope_asked_for_is_refused_by_name() -> None:
    with pytest.raises(ScopeMissing, match="key 'shop' lacks the scope 'route'"):
        ring().identify("Bearer s3cret", ROUTE)


def test_keys_are_read_from_a_file_of_hashes(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: [{{name: a, sha256: {hash_key('k')}, tenant: acme, scopes: [generate, route]}}]")

    assert KeyRing.read(file).identify("Bearer k", ROUTE).tenant == "acme"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keys: [{name: a, sha256: short, tenant: t}]", "keys[0].sha256"),
        ("keys: [{name: a, tenant: t}]", "keys[0].sha256"),
        (f"keys: [{{name: a, sha256: {'a' * 64}, tenant: t, scope: x}}]", "keys[0].scope: unknown setting"),
        ("key: []", "key: unknown setting"),
        (f"keys: [{{name: a, sha256: {'a' * 64}, tenant: t}}, {{name: b, sha256: {'a' * 64}, tenant: u}}]", "a, b"),
    ],
)
def test_a_mistake_in_the_file_is_refused_with_its_path(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)

    with pytest.raises(SettingsError, match="keys") as raised:
        KeyRing.read(file)
    assert told in str(raised.value)


def test_repr_shows_no_key_and_no_hash() -> None:
    assert repr(ring()) == "<KeyRing 1 keys>"
