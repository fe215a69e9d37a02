from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.local_engine.lease_settings import LeaseSettings, runtime_name


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://127.0.0.1:11434/v1", "node7:11434"),
        ("http://LOCALHOST:11434", "node7:11434"),
        ("http://[::1]:8000/v1/", "node7:8000"),
        ("0.0.0.0:1234", "node7:1234"),
        ("http://gpu3.site:8000/v1", "gpu3.site:8000"),
        ("https://gpu3.site/v1", "gpu3.site:443"),
        ("http://10.0.0.7", "10.0.0.7:80"),
    ],
)
def test_a_runtime_has_one_name_however_its_address_is_written_and_one_of_this_machine_the_nodes(
    address: str, name: str
) -> None:
    assert runtime_name(address, "node7") == name


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"renew_s": 14}, "renew_s and cancel_s together must be less than ttl_s, 15"),
        ({"max_hold_s": 2}, "cancel_s must be less than max_hold_s, 2"),
        ({"name": "two words"}, "name"),
        ({"slots": 0}, "slots"),
    ],
)
def test_times_that_cannot_be_kept_are_mistakes(told: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        LeaseSettings.model_validate(told)
