"""Which key's turn it is, and which are out."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from services.cloud_proxy.key import Key
from services.cloud_proxy.keyring import LIMITED_REST_S, REST_S, Keyring, KeyState, Standing
from spillway.errors import (
    ProviderAuthFailed,
    ProviderError,
    ProviderOutOfCredit,
    ProviderRateLimited,
    SpillwayError,
)
from spillway.testing.clock import HandClock

SECRET = "sk-very-secret"


def ring(clock: HandClock, count: int = 2) -> Keyring:
    return Keyring("openai", {name: Key(f"{SECRET}-{name}") for name in "abc"[:count]}, clock=clock, max_rest_s=100.0)


def states(keys: Keyring) -> list[str]:
    return [standing.state.name for standing in keys.standings()]


def test_keys_take_turns() -> None:
    keys = ring(HandClock(), 3)
    assert [keys.take().source for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]
    tried = [keys.take()]
    assert keys.take(tried).source == "b"


def test_a_provider_without_keys_is_asked_without_one_whatever_it_says() -> None:
    keys = Keyring("local", None, clock=HandClock())
    held = keys.take()
    keys.failed(held, ProviderAuthFailed(), 401)
    assert keys.take() is held
    assert held.key is None
    assert keys.standings() == []


def test_a_key_that_the_provider_does_not_know_is_dead_until_it_changes() -> None:
    clock = HandClock()
    keys = ring(clock)
    with capture_logs() as logs:
        keys.failed(keys.take(), ProviderAuthFailed(retry_after_s=1.0), 401)
    assert [(entry["event"], entry["source"], entry["log_level"]) for entry in logs] == [("key.dead", "a", "error")]
    clock.advance(1e6)
    assert keys.standings()[0] == Standing("a", KeyState.DEAD, "PROVIDER_AUTH_FAILED")
    assert {keys.take().source for _ in range(4)} == {"b"}
    keys.put("a", Key(SECRET))
    assert states(keys) == ["USABLE", "USABLE"]


@pytest.mark.parametrize(
    ("error", "status", "seconds"),
    [
        (ProviderOutOfCredit(), 429, REST_S),
        (ProviderOutOfCredit(retry_after_s=7.0), 429, 7.0),
        (ProviderOutOfCredit(retry_after_s=1e9), 429, 100.0),
        (ProviderAuthFailed(), 403, REST_S),
        (ProviderRateLimited(), 429, LIMITED_REST_S),
        (ProviderRateLimited(retry_after_s=20.0), 429, 20.0),
    ],
)
def test_a_key_that_cannot_serve_for_now_rests_and_is_tried_again(
    error: SpillwayError, status: int, seconds: float
) -> None:
    clock = HandClock()
    keys = ring(clock)
    keys.failed(keys.take(), error, status)
    clock.advance(seconds - 0.01)
    assert keys.standings()[0] == Standing("a", KeyState.RESTING, error.reason)
    assert {keys.take().source for _ in range(2)} == {"b"}
    clock.advance(0.02)
    assert keys.standings()[0] == Standing("a", KeyState.USABLE, "")


def test_a_key_that_dies_under_several_calls_is_told_once() -> None:
    keys = ring(HandClock(), 1)
    held = keys.take()
    with capture_logs() as logs:
        for _ in range(3):
            keys.failed(held, ProviderAuthFailed(), 401)
    assert [entry["event"] for entry in logs] == ["key.dead"]


def test_a_limited_key_does_not_close_the_provider_while_another_is_usable() -> None:
    keys = ring(HandClock())
    first, last = ProviderRateLimited(retry_after_s=20.0), ProviderRateLimited(retry_after_s=20.0)
    keys.failed(keys.take(), first, 429)
    keys.failed(keys.take(), last, 429)
    assert (first.retry_after_s, last.retry_after_s) == (0.0, 20.0)


@pytest.mark.parametrize(("error", "status"), [(ProviderAuthFailed(), 403), (ProviderRateLimited(), 429)])
def test_what_may_be_one_models_trouble_does_not_take_the_last_key_out(error: SpillwayError, status: int) -> None:
    keys = ring(HandClock(), 1)
    keys.failed(keys.take(), error, status)
    assert states(keys) == ["USABLE"]
    assert keys.closed() is None


def test_other_failures_are_not_the_keys() -> None:
    keys = ring(HandClock())
    keys.failed(keys.take(), ProviderError(retry_after_s=5.0), 503)
    assert states(keys) == ["USABLE", "USABLE"]


def test_without_a_usable_key_the_provider_is_closed_and_says_for_how_long() -> None:
    clock = HandClock()
    keys = ring(clock)
    keys.failed(keys.take(), ProviderAuthFailed(), 401)
    keys.failed(keys.take(), ProviderOutOfCredit(), 429)
    with pytest.raises(ProviderOutOfCredit, match="none of its keys is usable now") as caught:
        keys.take()
    assert caught.value.retry_after_s == REST_S
    keys.put("b", None)
    with pytest.raises(ProviderAuthFailed, match="none of its keys is valid") as dead:
        keys.take()
    assert dead.value.retry_after_s is None
    keys.put("a", None)
    with pytest.raises(ProviderAuthFailed, match="all its keys have been removed"):
        keys.take()


def test_a_call_that_has_tried_every_key_ends_with_what_the_last_one_was_told() -> None:
    keys = ring(HandClock(), 1)
    refusal = ProviderAuthFailed("openai answered 403")
    with pytest.raises(ProviderAuthFailed) as caught:
        keys.take([keys.take()], refusal)
    assert caught.value is refusal


def test_what_befell_the_key_before_it_never_counts_for_the_new_one() -> None:
    keys = ring(HandClock(), 1)
    old = keys.take()
    keys.put("a", Key("sk-new"))
    keys.failed(old, ProviderAuthFailed(), 401)
    assert states(keys) == ["USABLE"]


def test_a_keyring_shows_how_its_keys_stand_and_none_of_them() -> None:
    keys = ring(HandClock())
    keys.failed(keys.take(), ProviderAuthFailed(), 401)
    assert repr(keys) == "<Keyring openai a dead, b usable>"
    assert SECRET not in f"{keys.take()} {keys.standings()} {vars(keys)}"
