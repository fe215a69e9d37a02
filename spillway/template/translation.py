"""A configuration with the template's keys, turned into one of ours. Pure.

What the file says in our own words wins: a setting that is there is not touched, what lists say is kept, and what the
template adds to a list comes behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from spillway.template import runtime
from spillway.template.provider import CAPABILITIES, PROVIDERS, UNKNOWN_REGION, placed
from spillway.template.table import KEYS, SECTIONS, known

OURS_TOO = "local_engine"
"""The section that is the template's and ours."""
METRICS_PORT = 9464
LISTENS = {"local_engine": "127.0.0.1:7071", "cloud_proxy": "127.0.0.1:7072", "validator": "127.0.0.1:7073"}
"""Where a service listens that is not told."""
EVERYWHERE = ("", "0.0.0.0", "[::]", "::")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class TemplateError(Exception):
    """A key of the template is unknown or wrong; one line for each, with its path."""


def translated(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return `layers`, the sections of a file, with the template's keys turned into settings of ours.

    Without such keys it is what was given. Raises TemplateError naming every key that is unknown or wrong.
    """
    translation = Translation(layers)
    translation.carry_out()
    if translation.mistakes:
        raise TemplateError("\n".join(translation.mistakes))
    return translation.ours


class Translation:
    """One file's. `told` is what the template's keys say, by their path; `ours` grows into the result."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.mistakes: list[str] = []
        self.told: dict[str, Any] = {}
        self.ours: dict[str, Any] = {name: value for name, value in layers.items() if name not in SECTIONS}
        self.ours = deepcopy(self.ours)
        self._read(layers)

    @property
    def makes_targets(self) -> bool:
        """Whether the template describes a mesh, and not only how it is watched."""
        return any(path.partition(".")[0] != "observability" for path in self.told if path != "local_engine.model")

    def _read(self, layers: Mapping[str, Any]) -> None:
        for section in SECTIONS:
            stated = layers.get(section)
            if stated is None:
                if section == OURS_TOO and section in layers:
                    self.ours[section] = None
                continue
            if not isinstance(stated, dict):
                self._wrong(section, f"expected a mapping, found {type(stated).__name__}")
                continue
            if section == OURS_TOO:
                names = known(section)
                self.ours[section] = deepcopy({name: value for name, value in stated.items() if name not in names})
            elif unknown := [str(name) for name in stated if name not in known(section)]:
                for name in unknown:
                    self._wrong(f"{section}.{name}", f"unknown setting; known: {', '.join(known(section))}")
        for key in KEYS:
            section, _, name = key.path.partition(".")
            stated = layers.get(section)
            if not isinstance(stated, dict) or stated.get(name) is None:
                continue
            try:
                self.told[key.path] = key.read(stated[name])
            except ValueError as error:
                self._wrong(key.path, str(error))

    def carry_out(self) -> None:
        """Make the settings. Nothing is made of a key that is wrong."""
        for key in KEYS:
            if key.path in self.told:
                for path in key.to:
                    self._put(path, self.told[key.path])
        self._routing()
        self._observability()
        self._engine()
        if self.makes_targets:
            self._mesh()

    def _routing(self) -> None:
        told = self.told
        stated = [path for path in told if path.startswith("routing.")]
        if self._stated("router.policy_file") is not None:
            for path in stated:
                self._wrong(path, "router.policy_file states the whole policy: say it there, or remove that")
            return
        policy = dict(told.get("routing.strategy", {}))
        threshold = told.get("routing.escalation_threshold")
        if threshold is not None:
            if policy.setdefault("strategy", "cascade") != "cascade":
                self._wrong("routing.escalation_threshold", "goes with strategy cascade alone; remove one of the two")
            policy["confidence_threshold"] = threshold
        if (retries := told.get("routing.fallback_max_retries")) is not None:
            policy["max_attempts"] = retries + 1
        for name, value in policy.items():
            self._put(f"router.policy.{name}", value)

    def _observability(self) -> None:
        told = self.told
        port = told.get("observability.metrics_port", METRICS_PORT)
        if told.get("observability.metrics", "observability.metrics_port" in told):
            self._put("router.telemetry.metrics_listen", f"127.0.0.1:{port}")
        if (traced := told.get("observability.tracing")) is not None:
            self._put("shared.telemetry.sample_ratio", 1.0 if traced else 0.0)

    def _engine(self) -> None:
        told = self.told
        if "local_engine.max_model_len" in told and "local_engine.context_length" in told:
            self._wrong("local_engine.max_model_len", "is the same as context_length: remove one of the two")
        if "local_engine.endpoint" in told:
            for key in KEYS:
                if key.path in told and key.to and key.path.startswith("local_engine."):
                    self._wrong(key.path, "is for vLLM, but the runtime at `endpoint` loads the model: set it there")
            self._runtime(told["local_engine.endpoint"])
            return
        if (model := told.get("local_engine.model")) is not None:
            self._put("local_engine.model", model)
        if (length := self._context_length) is not None:
            self._put("local_engine.vllm.max_model_len", length)
        if (seqs := told.get("local_engine.max_num_seqs")) is not None:
            self._put("local_engine.vllm.max_num_seqs", seqs)
        if (quantized := told.get("local_engine.quantization")) is not None and quantized.method:
            self._put("local_engine.vllm.quantization", quantized.method)

    def _runtime(self, url: str) -> None:
        """The runtime at `endpoint`: the local engine stands before it, so that all content may go there."""
        if _is_public(urlsplit(url).hostname or ""):
            self._wrong("local_engine.endpoint", "is not on the site: a provider goes into cloud_engine")
        try:
            kind, address = runtime.endpoint(url)
        except ValueError as error:
            self._wrong("local_engine.endpoint", str(error))
            return
        kind = str(self._stated("local_engine.runtime.kind") or kind)
        length = self._context_length
        found = {
            "kind": kind,
            "address": address,
            "model": self.told.get("local_engine.model"),
            "context_window": length,
            "num_ctx": length if kind == "ollama" else None,  # else it loads what it likes and cuts prompts
        }
        for name, value in found.items():
            if value is not None:
                self._put(f"local_engine.runtime.{name}", value)

    @property
    def _context_length(self) -> int | None:
        found: int | None = self.told.get("local_engine.context_length", self.told.get("local_engine.max_model_len"))
        return found

    def _mesh(self) -> None:
        """Make providers and targets; where the file states no targets, have the router ask the validator too."""
        providers = list(self._cloud())
        if providers:
            self._add("cloud_proxy.providers", providers)
        if self._stated("router.policy_file") is not None:
            return
        targets = [
            {
                "name": f"{provider['name']}/{model['name']}",
                "kind": "cloud",
                "address": self._address("cloud_proxy"),
                "model": f"{provider['name']}/{model['name']}",
                "region": provider["region"],
                "capabilities": model["capabilities"],
                **({"context_window": model["context_window"]} if "context_window" in model else {}),
            }
            for provider in providers
            for model in provider["models"]
        ]
        stated = self._stated("router.targets")
        if stated is None:
            self._put("router.validator", {"address": self._address("validator")})
        local = isinstance(stated, list) and any(_named(entry, "kind") == "local" for entry in stated)
        if not local and not self.ours.get("local_engines"):  # each of those is a target of its own
            targets.insert(0, self._local())
        self._add("router.targets", targets)

    def _local(self) -> dict[str, Any]:
        own = self.ours.get(OURS_TOO) or {}
        quantized = self.told.get("local_engine.quantization")
        found = {
            "name": str(own.get("target", "local")),
            "kind": "local",
            "address": self._address("local_engine"),
            "region": str(own.get("region", "site")),
            "capabilities": runtime.capabilities(own),
            "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
            "context_window": self._context_length,
            "quantization_bits": quantized.bits if quantized is not None else None,
        }
        if "local_engine.endpoint" in self.told:
            found["concurrency"] = self.told.get("local_engine.max_num_seqs")
        return {name: value for name, value in found.items() if value is not None}

    def _cloud(self) -> Iterator[dict[str, Any]]:
        told = {path.partition(".")[2]: value for path, value in self.told.items() if path.startswith("cloud_engine.")}
        if not told:
            return
        name, first = told.get("provider"), told.get("model")
        endpoint = told.get("endpoint")
        for path, value in (("cloud_engine.provider", name), ("cloud_engine.model", first)):
            if value is None and not any(line.startswith(f"{path}:") for line in self.mistakes):
                self._wrong(path, "is missing")
        if name is None or first is None:
            return
        if not _PROVIDER.fullmatch(name) or (name not in PROVIDERS and endpoint is None):
            some = f"known: {', '.join(PROVIDERS)}; any other OpenAI-style one needs its `endpoint`"
            self._wrong("cloud_engine.provider", f"unknown provider; {some}")
            return
        if endpoint is None and PROVIDERS[name].elsewhere:
            self._wrong("cloud_engine.endpoint", f"is missing: {name} has an address of your own")
            return
        if "api_key" in told and "api_key_env" in told:
            self._wrong("cloud_engine.api_key", "is the same as api_key_env: remove one of the two")
        models: dict[str, list[str]] = {name: [first]}
        for place, entry in enumerate(told.get("fallback_models", ())):
            try:
                resells = endpoint is not None or PROVIDERS[name].resells
                provider, model = placed(entry, name, resells=resells)
            except ValueError as error:
                self._wrong(f"cloud_engine.fallback_models[{place}]", str(error))
                continue
            if model not in models.setdefault(provider, []):
                models[provider].append(model)
        for provider, served in models.items():
            if bad := [model for model in served if not _TARGET.fullmatch(model)]:
                self._wrong(
                    "cloud_engine.model" if first in bad else "cloud_engine.fallback_models", "is no model's name"
                )
            yield self._provider(provider, served, told if provider == name else {})

    def _provider(self, name: str, served: list[str], told: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = told.get("endpoint")
        # At another address `openai` is any server that speaks as OpenAI does.
        usual = PROVIDERS.get(name) if endpoint is None or name != "openai" else None
        # A provider's usual key is not sent to another address unless the file says so.
        own_key = usual.key_env if usual and (endpoint is None or usual.elsewhere) else None
        key_env = told.get("api_key_env", told.get("api_key", own_key))
        length = told.get("context_length")
        found = {
            "name": name,
            "preset": name if usual else None,
            "base_url": endpoint,
            "region": told.get("region", usual.region if usual and endpoint is None else UNKNOWN_REGION),
            "key_env": key_env,
            "limits": told.get("rate_limit"),
            "idle_s": told.get("timeout"),
            "max_tokens_field": None if usual else "max_tokens",
            "models": [_model(model, length, _capabilities(name, model, endpoint)) for model in served],
        }
        return {name: value for name, value in found.items() if value is not None}

    def _address(self, service: str) -> str:
        """Where `service` is reached on this machine."""
        listen = self._stated(f"{service}.server.listen") or LISTENS[service]
        host, _, port = str(listen).rpartition(":")
        return f"{'127.0.0.1' if host in EVERYWHERE else host}:{port}"

    def _stated(self, path: str) -> Any:
        place: Any = self.ours
        for name in path.split("."):
            if not isinstance(place, dict):
                return None
            place = place.get(name)
        return place

    def _put(self, path: str, value: Any) -> None:
        """Set what is not set. What is null is: it says that there shall be none."""
        *way, last = path.split(".")
        place = self.ours
        for depth, name in enumerate(way):
            if depth == 0 and place.get(name) is None:
                place[name] = {}
            below = place.setdefault(name, {})
            if not isinstance(below, dict):
                return
            place = below
        place.setdefault(last, value)

    def _add(self, path: str, entries: list[dict[str, Any]]) -> None:
        """Put `entries` behind those stated at `path`, but for those that are there by name."""
        self._put(path, [])
        stated = self._stated(path)
        if isinstance(stated, list):
            there = {_named(entry, "name") for entry in stated}
            stated += [entry for entry in entries if entry["name"] not in there]

    def _wrong(self, path: str, why: str) -> None:
        self.mistakes.append(f"{path}: {why}")

    def __repr__(self) -> str:
        return f"<Translation {len(self.told)} keys, {len(self.mistakes)} mistakes>"


def _model(name: str, length: int | None, can: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "capabilities": list(can)}
    if length is not None:
        found["context_window"] = length
    return found


def _capabilities(provider: str, model: str, endpoint: str | None) -> tuple[str, ...]:
    """What a cloud model can do. Many refuse a request for log probabilities, so only those are said to tell them that
    are known to."""
    if provider == "openai" and endpoint is None and model.startswith(("gpt-3.5", "gpt-4")):
        return (*CAPABILITIES, "logprobs")
    return PROVIDERS[provider].capabilities if provider in PROVIDERS else CAPABILITIES


def _named(entry: object, name: str) -> object:
    return entry.get(name) if isinstance(entry, dict) else None


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        return False
