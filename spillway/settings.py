"""Settings: frozen, nested, read once; a typo is an error with its path.

One YAML file serves a whole mesh. Its top level holds `shared` and one section per service; a service reads `shared`,
then its own section over it, then the environment over both:

    SPILLWAY_SHARED__STORE__URL=redis://...       shared: {store: {url: ...}}
    SPILLWAY_ROUTER__SERVER__LISTEN=0.0.0.0:7070  router: {server: {listen: ...}}

A variable's value is text or a number; one that begins with [ or { is YAML, and `null` means nothing is set.

A file may also have the keys of the well-known template (docs/template.md): they are turned into ours as it is read.
Local engines that share a machine are the entries of `local_engines`, each laid over `local_engine` (docs/machine.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from socket import gethostname
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from spillway import local_engines, template
from spillway.worker import ALONE, Worker

PREFIX = "SPILLWAY_"
SHARED = "shared"
MOST_WORKERS = 256
SECTIONS = (SHARED, "router", "local_engine", "local_engines", "cloud_proxy", "validator")


class SettingsError(Exception):
    """A setting is wrong; the message names each path and what to do."""


class SettingsHopeless(SettingsError):
    """A setting that this machine cannot honour: starting again changes nothing."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """`max_queue: on` is a mistake; left alone it would mean 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind is not bool and bool not in get_args(kind):
            raise ValueError("is a switch (on, off, true, false), not a value")
        return value


Share = Callable[[str, str], str]
"""From the name of a setting and its host:port, that with the real port, the same one for all workers."""


class ServerSettings(Section):
    """Where a service listens and how it stops."""

    listen: str = Field(description="host:port of the service; port 0 takes a free one")
    admin_listen: str | None = Field(None, description="host:port of channelz; absent: off")
    max_receive_bytes: int = Field(16 * 2**20, gt=0, description="largest message accepted, in bytes")
    default_deadline_s: float = Field(120.0, gt=0, description="deadline of a caller that brings none")
    write_stall_s: float = Field(30.0, gt=0, description="a stream whose reader takes nothing for so long is cut")
    announce_s: float = Field(0.5, ge=0, description="time between NOT_SERVING and refusing calls at shutdown")
    drain_s: float = Field(20.0, ge=0, description="time for running calls to end at shutdown")
    keys_file: Path | None = Field(None, description="YAML file of hashed caller keys; absent: no key is asked for")
    _worker: Worker = PrivateAttr(ALONE)

    @property
    def worker(self) -> Worker:
        """Which process of its service has these; no setting."""
        return self._worker

    def of(self, worker: Worker, shared: Share) -> ServerSettings:
        """Return these as `worker` has them; `shared` gives their ports."""
        found = self.model_copy(update={"listen": shared("server.listen", self.listen)})
        if self.admin_listen is not None:
            found = found.model_copy(update={"admin_listen": shared("server.admin_listen", self.admin_listen)})
        found._worker = worker
        return found


class TelemetrySettings(Section):
    """Where spans and metrics go."""

    otlp_endpoint: str | None = Field(None, description="http://host:port of an OTLP/gRPC collector; absent: no export")
    sample_ratio: float = Field(1.0, ge=0, le=1, description="share of traces recorded when the caller did not decide")
    export_timeout_s: float = Field(2.0, gt=0, description="longest wait for the collector")
    export_interval_s: float = Field(1.0, gt=0, description="time between exports of spans")
    metrics_interval_s: float = Field(15.0, gt=0, description="time between exports of metrics")
    instance: str | None = Field(
        None, description="service.instance.id of what is exported; absent: none, of several workers HOST/NUMBER"
    )


class StoreSettings(Section):
    """The Redis or Valkey that replicas share."""

    url: str | None = Field(
        None, repr=False, description="redis://host:port/db or unix:///path; required where a service needs it"
    )
    timeout_s: float = Field(0.25, gt=0, description="longest wait for one command")
    max_connections: int = Field(64, gt=0)


class LogSettings(Section):
    """How logs look."""

    level: str = Field("info", pattern="^(debug|info|warning|error)$")
    format: str = Field("json", pattern="^(json|console)$")


class ServiceSettings(Section):
    """What every service has, and `shared` may set for all of them."""

    server: ServerSettings
    telemetry: TelemetrySettings = TelemetrySettings()
    store: StoreSettings = StoreSettings()
    logs: LogSettings = LogSettings()


class ScaledSettings(ServiceSettings):
    """Of a service that may be several processes. See docs/scaling.md."""

    workers: int = Field(
        1, gt=0, le=MOST_WORKERS, description="processes that share its ports; auto: as many as it may use cores"
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _counts_cores(cls, told: object) -> object:
        if told != "auto":
            return told
        from spillway.doctor.inspection import usable_cores  # a client's start need not wait for it

        return min(MOST_WORKERS, usable_cores())

    def of(self, worker: Worker, shared: Share) -> Self:
        """Return these as `worker` has them; `shared` gives their ports.

        Raises SettingsError for what cannot be shared by so many.
        """
        instance = f"{self.telemetry.instance or gethostname()}/{worker.number}"
        telemetry = self.telemetry.model_copy(update={"instance": instance})
        return self.model_copy(update={"server": self.server.of(worker, shared), "telemetry": telemetry})

    def apart(self) -> tuple[str, ...]:
        """Name what each worker would have for itself that users may expect of all of them together."""
        return ()


S = TypeVar("S", bound=ServiceSettings)


def load(section: str, model: type[S], *, path: Path | None, environ: Mapping[str, str], name: str | None = None) -> S:
    """Read the settings of service `section`; of several local engines those of `name`.

    Raises SettingsError naming the path of every setting that is unknown, missing or wrong.
    """
    layers = (read_mesh(path) if path else {}, read_environment(environ))
    found = engines(*layers)
    engine = _chosen(found, name) if section == local_engines.GROUND else None
    places = [SHARED, section, *([f"{local_engines.SECTION}.{engine}"] if engine else [])]
    stated: dict[str, dict[str, Any]] = {place: {} for place in places}
    merged: dict[str, Any] = {}
    for layer in layers:
        for place in places:
            said = _said(layer, place)
            stated[place] = overlay(stated[place], said)
            merged = overlay(merged, said)
    if engine:
        settled = {key: found[engine][key] for key in local_engines.SETTLED}
        merged = overlay(merged, {**settled, "server": {"listen": found[engine]["server"]["listen"]}})
    if section == "router" and found:
        merged = local_engines.routed(merged, found, overlay(*layers))
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(explain(error, places[-1], below=dict(list(stated.items())[::-1]))) from None


def engines(file: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the section of each engine that `local_engines` names, by its name; none where it names none.

    Raises SettingsError for engines that cannot stand side by side, and for one that the environment alone names.
    """
    layers = (file, environment)
    named = [mapping(layer.get(local_engines.SECTION), local_engines.SECTION) for layer in layers]
    if numbers := [name for name in named[0] if not isinstance(name, str)]:
        raise SettingsError(f"{local_engines.SECTION}.{numbers[0]}: a name is text: put it in quotes")
    if unknown := sorted(named[1].keys() - named[0].keys()) if named[0] else ():
        known = ", ".join(map(str, named[0]))
        raise SettingsError(f"{local_engines.SECTION}.{unknown[0]}: the environment sets it; the file names {known}")
    own: dict[str, dict[str, Any]] = {}
    whole: dict[str, dict[str, Any]] = {}
    for name in map(str, named[0] or named[1]):
        own[name], whole[name] = {}, {}
        for layer in layers:
            said = _said(layer, f"{local_engines.SECTION}.{name}")
            own[name] = overlay(own[name], said)
            whole[name] = overlay(overlay(whole[name], _said(layer, local_engines.GROUND)), said)
    try:
        return local_engines.settled(own, whole, overlay(file, environment)) if own else {}
    except local_engines.EnginesError as error:
        raise SettingsError(str(error)) from None


def _chosen(found: Mapping[str, object], name: str | None) -> str | None:
    """Return which engine `name` is; the only one needs none."""
    if name is None and len(found) < 2:
        return next(iter(found), None)
    there = ", ".join(found) or "none"
    if name is None:
        raise SettingsError(f"{local_engines.SECTION}: there are {there}: say which one this is, with --name")
    if name not in found:
        raise SettingsError(f"{local_engines.SECTION}.{name}: is not there; there are: {there}")
    return name


def _said(layer: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return what `layer` says at `place`, SECTION or SECTION.NAME."""
    section, _, name = place.partition(".")
    said = mapping(layer.get(section), section)
    return mapping(said.get(name), place) if name else said


def read_mesh(path: Path) -> dict[str, Any]:
    """Return the sections of a mesh's configuration, with those of the template turned into ours.

    Raises SettingsError for a file that cannot be read, an unknown section, and each wrong key of the template.
    """
    layers = read_yaml(path)
    known = dict.fromkeys((*SECTIONS, *template.SECTIONS))
    if unknown := sorted(str(name) for name in layers if name not in known):
        raise SettingsError(f"{path}: unknown section {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        return template.translated(layers)
    except template.TemplateError as error:
        raise SettingsError(str(error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, or raise SettingsError with the place of the mistake."""
    try:
        return mapping(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {mistake(error)}") from None


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings among environment variables, nested by `__`."""
    nested: dict[str, Any] = {}
    for name, value in environ.items():
        head, *rest = name.removeprefix(PREFIX).lower().split("__")
        if not name.startswith(PREFIX) or not rest:
            continue
        if head not in SECTIONS:
            raise SettingsError(f"{name}: unknown section {head!r}; known: {', '.join(SECTIONS)}")
        place = nested.setdefault(head, {})
        for key in rest[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise SettingsError(f"{name}: {key} is set as a whole by another variable")
        place[rest[-1]] = _read_value(name, value)
    return nested


def _read_value(name: str, value: str) -> Any:
    if value.strip() == "null":
        return None
    if not value.lstrip().startswith(("[", "{")):
        # A key that begins with @ stays what it is, and one of digits alone becomes the same text again.
        return int(value) if value.isdecimal() and value == str(int(value)) else value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"{name} is not YAML: {mistake(error)}") from None


def mistake(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the text itself: it may be a secret."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{getattr(error, 'problem', None) or type(error).__name__}"


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it, mapping by mapping; lists are replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = overlay(merged[key], value)
        merged[key] = value
    return merged


def explain(error: ValidationError, section: str, below: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return one line per mistake: its path and what is wrong.

    With `below`, what each place says from `section` itself down to `shared`, a mistake is told where it was made.
    """
    lines = []
    for mistake in error.errors(include_url=False, include_input=False):
        place, where = section, mistake["loc"]
        if where[:2] == ("machine", "engines"):  # a neighbour's
            place, where = local_engines.SECTION, where[2:]
        elif below is not None and mistake["type"] != "missing":
            place = next((name for name, said in below.items() if _is_set(said, where)), SHARED)
        path = place + _spelled(where, (below or {}).get(place))
        what = "unknown setting" if mistake["type"] == "extra_forbidden" else mistake["msg"]
        lines.append(f"{path}: {what}")
    return "\n".join(dict.fromkeys(lines))


def _spelled(where: tuple[int | str, ...], said: Any) -> str:
    """Return a place in what was `said`, as it is written there: the tag of a union is told like a key, and is none."""
    path = ""
    for part in where:
        if isinstance(said, Mapping) and part not in said and part in said.values():
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        if isinstance(said, Mapping):
            said = said.get(part)
        else:
            said = said[part] if isinstance(said, list) and isinstance(part, int) and part < len(said) else None
    return path


def _is_set(values: Mapping[str, Any], path: tuple[int | str, ...]) -> bool:
    place: Any = values
    for part in path:
        if not isinstance(place, Mapping):
            return True
        if part not in place:
            return False
        place = place[part]
    return True


def mapping(value: object, name: str) -> dict[str, Any]:
    """Return `value`, a mapping or nothing, as one; raises SettingsError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{name}: expected a mapping, found {type(value).__name__}")
    return value
