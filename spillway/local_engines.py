"""The local engines of one machine, as a mesh's configuration names them. Pure. See docs/machine.md.

`local_engines` maps a name to settings of `local_engine`, which are laid over that section for the engine of that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from spillway.template import runtime
from spillway.template.translation import EVERYWHERE, LISTENS

SECTION = "local_engines"
GROUND = "local_engine"
SETTLED = ("target", "tier", "machine")
"""Settings that every engine has once its neighbours are known; `server.listen` too."""
TIERS = ("small", "large")
_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_LISTENERS = (
    ("router", "server", "listen"),
    ("router", "server", "admin_listen"),
    ("router", "http", "listen"),
    ("router", "telemetry", "metrics_listen"),
    ("cloud_proxy", "server", "listen"),
    ("cloud_proxy", "server", "admin_listen"),
    ("validator", "server", "listen"),
    ("validator", "server", "admin_listen"),
)
_DEFAULTS = {("router", "server", "listen"): "127.0.0.1:7070"} | {
    (service, "server", "listen"): listen for service, listen in LISTENS.items() if service != GROUND
}


class EnginesError(Exception):
    """Engines that cannot stand side by side; one line for each mistake, with its path."""


def settled(own: Mapping[str, Any], sections: Mapping[str, Any], mesh: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the whole section of each engine: with its port, its target, its tier, and who else is there.

    `own` is what the configuration says of each by name, `sections` the same laid over `local_engine`; `mesh` has the
    other services. An engine without a port gets the next that none of them has; its target and, where that is one,
    its tier are its name. Raises EnginesError for a bad name, and a port or a target that two have.
    """
    mistakes = [
        f"{SECTION}.{name}: a name has small letters, digits, and - or _ between them"
        for name in own
        if not _NAME.fullmatch(name)
    ]
    ports = dict(_ports(mesh))
    listens: dict[str, str] = {}
    for name, section in own.items():
        if (listen := _at(section, "server", "listen")) is None:
            continue
        listens[name] = str(listen)
        port = _port(listens[name])
        if port and (other := ports.setdefault(port, f"{SECTION}.{name}")) != f"{SECTION}.{name}":
            mistakes.append(f"{SECTION}.{name}.server.listen: {other} listens on port {port}")
    for name, section in sections.items():
        where = f"{SECTION}.{name}.server.admin_listen"
        port = _port(str(_at(section, "server", "admin_listen") or ""))
        if port and (other := ports.setdefault(port, where)) != where:
            mistakes.append(f"{where}: {other} listens on port {port}")
    found: dict[str, dict[str, Any]] = {}
    targets: dict[str, str] = {}
    for name, section in sections.items():
        if name not in listens:
            host, _, first = str(_at(section, "server", "listen") or LISTENS[GROUND]).rpartition(":")
            port = next(port for port in range(_port(first) or _port(LISTENS[GROUND]), 2**16) if port not in ports)
            ports[port] = f"{SECTION}.{name}"
            listens[name] = f"{host}:{port}"
        target = str(section.get("target") or name)
        if (other := targets.setdefault(target, name)) != name:
            mistakes.append(f"{SECTION}.{name}.target: {target} is that of {SECTION}.{other} too")
        server = section.get("server") if isinstance(section.get("server"), dict) else {}
        found[name] = {
            **section,
            "server": {**server, "listen": listens[name]},
            "target": target,
            "tier": section.get("tier") or (name if name in TIERS else TIERS[0]),
            "machine": {"engine": name, "engines": dict(sections)},
        }
    if mistakes:
        raise EnginesError("\n".join(mistakes))
    return found


def routed(
    router: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]], mesh: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the section `router` with a target for each engine, before others, where no local one is listed.

    A listed target without an address is the engine of its name. A policy file states all targets itself. Where no
    target is listed at all, the router asks the validator of `mesh`.
    """
    listed = router.get("targets")
    if router.get("policy_file") is not None or not isinstance(listed, (list, tuple, type(None))):
        return dict(router)
    places = {str(section["target"]): _dialled(section["server"]["listen"]) for section in engines.values()}
    targets = [
        {"address": places[target["name"]], **target}
        if isinstance(target, dict) and target.get("name") in places
        else target
        for target in listed or ()
    ]
    if any(isinstance(target, dict) and target.get("kind") == "local" for target in targets):
        return {**router, "targets": targets}
    found = {**router, "targets": [*map(_target, engines.values()), *targets]}
    if listed is None:
        listen = _at(mesh, "validator", "server", "listen") or LISTENS["validator"]
        found.setdefault("validator", {"address": _dialled(listen)})
    return found


def _target(section: Mapping[str, Any]) -> dict[str, Any]:
    context = _at(section, "runtime", "context_window") or _at(section, "vllm", "max_model_len")
    found = {
        "name": section["target"],
        "kind": "local",
        "address": _dialled(section["server"]["listen"]),
        "region": section.get("region"),
        "tier": section["tier"],
        "capabilities": runtime.capabilities(section),
        "context_window": context,
        "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
    }
    return {name: value for name, value in found.items() if value is not None}


def _dialled(listen: object) -> str:
    """Where this machine reaches what listens there."""
    host, _, port = str(listen).rpartition(":")
    return f"{'127.0.0.1' if host in EVERYWHERE else host}:{port}"


def _ports(mesh: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    for path in _LISTENERS:
        listen = _at(mesh, *path) or _DEFAULTS.get(path)
        if listen is not None and (port := _port(str(listen))):
            yield port, ".".join(path)


def _port(listen: str) -> int:
    port = listen.rpartition(":")[2]
    return int(port) if port.isascii() and port.isdecimal() else 0


def _at(place: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(place, Mapping):
            return None
        place = place.get(name)
    return place
