from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, StrictInt, ValidationError

from spillway import settings
from spillway.settings import Section, ServerSettings, ServiceSettings, SettingsError, StoreSettings


class Limits(Section):
    max_queue: int = 10
    share: float = 0.5
    strict: StrictInt = 1
    enabled: bool = False
    key: str | None = Field(None, repr=False)
    names: frozenset[str] = frozenset()
    mode: Literal["a", "b"] = "a"


class EngineSettings(ServiceSettings):
    server: ServerSettings = ServerSettings(listen="127.0.0.1:7071")
    limits: Limits = Limits()


def load(path: Path, text: str = "", **environ: str) -> EngineSettings:
    file = path / "mesh.yaml"
    file.write_text(text)
    return settings.load("local_engine", EngineSettings, path=file, environ=environ)


def mistakes(path: Path, text: str = "", **environ: str) -> str:
    with pytest.raises(SettingsError) as raised:
        load(path, text, **environ)
    return str(raised.value)


def test_without_a_file_the_defaults_hold() -> None:
    read = settings.load("local_engine", EngineSettings, path=None, environ={})

    assert read == EngineSettings()


def test_a_section_lies_over_shared_and_the_environment_over_both(tmp_path: Path) -> None:
    text = """
    shared: {store: {url: "redis://shared", timeout_s: 1}, logs: {level: debug}}
    local_engine: {store: {timeout_s: 2}, limits: {max_queue: 3}}
    router: {anything: is the router's own business}
    """
    read = load(
        tmp_path,
        text,
        SPILLWAY_SHARED__LOGS__LEVEL="error",
        SPILLWAY_LOCAL_ENGINE__LIMITS__MAX_QUEUE="4",
        SPILLWAY_ROUTER__NAME="not mine",
        SPILLWAY_PARENT="1",
        HOME="/nowhere",
    )

    assert read.store == StoreSettings(url="redis://shared", timeout_s=2)
    assert read.logs.level == "error"
    assert read.limits.max_queue == 4


def test_values_of_the_environment_are_taken_as_they_are(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        SPILLWAY_LOCAL_ENGINE__LIMITS__KEY="@1e5: *",
        SPILLWAY_LOCAL_ENGINE__LIMITS__SHARE="0.25",
        SPILLWAY_LOCAL_ENGINE__LIMITS__ENABLED="true",
        SPILLWAY_LOCAL_ENGINE__LIMITS__NAMES="[a, b]",
        SPILLWAY_LOCAL_ENGINE__SERVER__LISTEN="10:30",
    )

    assert read.limits == Limits(key="@1e5: *", share=0.25, enabled=True, names=frozenset("ab"))
    assert read.server.listen == "10:30"


def test_a_key_of_digits_stays_text(tmp_path: Path) -> None:
    for key in ("12345678", "007", "1e5", "0x1f"):
        assert load(tmp_path, SPILLWAY_LOCAL_ENGINE__LIMITS__KEY=key).limits.key == key


def test_a_strict_number_can_be_set_from_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, SPILLWAY_LOCAL_ENGINE__LIMITS__STRICT="12").limits.strict == 12


def test_null_in_the_environment_unsets(tmp_path: Path) -> None:
    text = "local_engine: {limits: {key: from the file}}"

    assert load(tmp_path, text, SPILLWAY_LOCAL_ENGINE__LIMITS__KEY="null").limits.key is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("local_engine: {limits: {max_queu: 3}}", "local_engine.limits.max_queu: unknown setting"),
        ("shared: {store: {adress: x}}", "shared.store.adress: unknown setting"),
        ("local_engin: {}", "unknown section local_engin"),
        ("local_engine: {limits: {max_queue: many}}", "local_engine.limits.max_queue: "),
        ("shared: {logs: {level: loud}}", "shared.logs.level: "),
        ("local_engine: {limits: {mode: c}}", "local_engine.limits.mode: "),
        ("local_engine: {limits: {max_queue: on}}", "local_engine.limits.max_queue: "),
        ("local_engine: {server: {drain_s: 3}}", "local_engine.server.drain_s"),
        ("local_engine: [1, 2]", "local_engine: expected a mapping, found list"),
        ("[1, 2]", "expected a mapping, found list"),
        ("local_engine: {limits: {max_queue: 1", "is not YAML: line 1"),
    ],
)
def test_a_mistake_is_refused_with_its_path(tmp_path: Path, text: str, told: str) -> None:
    if told == "local_engine.server.drain_s":
        told = "local_engine.server.listen: Field required"
    assert told in mistakes(tmp_path, text)


def test_a_mistake_in_the_environment_is_refused_with_its_path(tmp_path: Path) -> None:
    assert "unknown section 'routr'" in mistakes(tmp_path, SPILLWAY_ROUTR__NAME="x")
    assert "local_engine.limits.nme: unknown setting" in mistakes(tmp_path, SPILLWAY_LOCAL_ENGINE__LIMITS__NME="x")
    assert "SPILLWAY_LOCAL_ENGINE__LIMITS__NAMES is not YAML" in mistakes(
        tmp_path, SPILLWAY_LOCAL_ENGINE__LIMITS__NAMES="[a"
    )
    assert "limits is set as a whole by another variable" in mistakes(
        tmp_path, SPILLWAY_LOCAL_ENGINE__LIMITS="x", SPILLWAY_LOCAL_ENGINE__LIMITS__NAMES="y"
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = mistakes(tmp_path, "local_engine: {limits: {a: 1, b: 2}}\nshared: {store: {timeout_s: 0}}")

    assert told.count("\n") == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*absent\.yaml"):
        settings.load("local_engine", EngineSettings, path=tmp_path / "absent.yaml", environ={})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SettingsError, match="not UTF-8"):
        settings.load("local_engine", EngineSettings, path=tmp_path / "binary.yaml", environ={})


@pytest.mark.parametrize("value", ["sk-secret-1", "{sk-secret-1"])
def test_no_secret_shows_in_a_repr_or_a_mistake(tmp_path: Path, value: str) -> None:
    text = f"local_engine: {{limits: {{key: 'sk-secret-1', max_queue: sk-secret-1}}}}\nbad: {value}\n"

    assert "sk-secret" not in mistakes(tmp_path, text)
    assert "sk-secret" not in mistakes(tmp_path, SPILLWAY_LOCAL_ENGINE__LIMITS__MAX_QUEUE=value)
    assert "sk-secret" not in repr(EngineSettings(limits=Limits(key=value)))
    assert "sk-secret" not in repr(EngineSettings(store=StoreSettings(url=f"redis://:{value}@host")))


def test_settings_are_frozen() -> None:
    read = EngineSettings()

    with pytest.raises(ValidationError, match="frozen"):
        read.limits.max_queue = 5  # type: ignore[misc]


def test_a_list_is_replaced_whole_and_a_mapping_is_merged() -> None:
    below = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 1}
    above = {"a": {"y": 3}, "b": [3], "d": {"z": 1}}

    merged = settings.overlay(below, above)

    assert merged == {"a": {"x": 1, "y": 3}, "b": [3], "c": 1, "d": {"z": 1}}
    assert below["a"] == {"x": 1, "y": 2}
