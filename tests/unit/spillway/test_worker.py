from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.admission_settings import AdmissionSettings
from services.router.settings import RouterSettings
from spillway.doctor.inspection import usable_cores
from spillway.settings import ScaledSettings, ServerSettings, SettingsError, load
from spillway.worker import ALONE, Worker


class Settings(ScaledSettings):
    server: ServerSettings = ServerSettings(listen="127.0.0.1:0")


def loaded(**environ: str) -> Settings:
    return load("router", Settings, path=None, environ=environ)


@given(count=st.integers(1, 64), limit=st.integers(0, 10_000))
def test_the_shares_of_all_workers_are_the_limit_and_differ_by_one_at_most(count: int, limit: int) -> None:
    shares = [Worker(number, count).share(limit) for number in range(count)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


def test_a_worker_reaches_all_but_itself() -> None:
    first, second, third = (Worker(number, 3, "run", "somewhere") for number in range(3))
    assert first.siblings == (second.socket, third.socket)
    assert (ALONE.socket, ALONE.siblings, repr(second)) == ("", (), "<Worker 1 of 3>")


def test_there_is_one_worker_unless_more_are_asked_for_and_auto_is_one_for_each_core() -> None:
    assert loaded().workers == 1
    assert loaded(SPILLWAY_ROUTER__WORKERS="3").workers == 3
    assert loaded(SPILLWAY_ROUTER__WORKERS="auto").workers == usable_cores() >= 1


def test_auto_is_as_many_as_there_may_be_where_there_are_more_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spillway.doctor.inspection.usable_cores", lambda: 384)
    assert loaded(SPILLWAY_ROUTER__WORKERS="auto").workers == 256


@pytest.mark.parametrize("wrong", ["0", "-1", "257", "many", "1.5"])
def test_a_number_of_workers_that_cannot_be_is_refused_with_its_path(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"^router\.workers: "):
        loaded(SPILLWAY_ROUTER__WORKERS=wrong)


def test_what_one_worker_exports_is_told_apart_from_what_others_do() -> None:
    settings = loaded(SPILLWAY_ROUTER__TELEMETRY__INSTANCE="rack7")
    told = [settings.of(Worker(number, 2), lambda name, listen: listen).telemetry.instance for number in range(2)]
    assert told == ["rack7/0", "rack7/1"]


def test_what_a_router_admits_is_divided_among_its_workers() -> None:
    settings = RouterSettings(admission=AdmissionSettings(max_running=5, max_waiting=3, tenant_max_running=2))
    shares = [settings.of(Worker(number, 2), lambda name, listen: listen).admission for number in range(2)]
    assert [(each.max_running, each.max_waiting, each.tenant_max_running) for each in shares] == [(3, 2, 1), (2, 1, 1)]
    assert {each.background_max_running for each in shares} == {None}


def test_fewer_places_than_workers_are_refused_with_their_path() -> None:
    settings = RouterSettings(admission=AdmissionSettings(tenant_max_running=1))
    with pytest.raises(SettingsError, match=r"^router\.admission\.tenant_max_running: 1 places are fewer than the 2"):
        settings.of(Worker(0, 2), lambda name, listen: listen)
