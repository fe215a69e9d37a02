"""Parameters that chat completions and completions share, read into a spec of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spillway import v1

from .failure import unknown, wrong

AUTO = "auto"
"""The model of a request that leaves the choice to the policy."""
NO_OPS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction"),
    }
)
"""Well-known parameters that change no answer: taken, and ignored."""
_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
_INTEGERS = {"top_k": 32, "seed": 64, "max_tokens": 32, "min_tokens": 32, "n": 32}
"""Parameter -> bits of its field."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the router takes it, and how its caller wants to be told."""

    spec: v1.GenerationSpec
    stream: bool = False
    include_usage: bool = False


class Parameters:
    """The parameters of a body, each taken once; one that nobody takes is refused. `null` is as if left out."""

    def __init__(self, body: object, place: str = "") -> None:
        if not isinstance(body, dict):
            raise wrong(place or "body", "must be a JSON object")
        self._left: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
        self._place = f"{place}." if place else ""

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def named(self, name: str) -> str:
        """The parameter as errors call it."""
        return self._place + name

    def raw(self, name: str) -> Any:
        """Take a value of any type; None if it is left out."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        """Take a text. Raises RequestInvalid for anything else."""
        found: str | None = self._typed(name, _is_text, "a text")
        return found

    def number(self, name: str) -> float | None:
        """Take a number. Raises RequestInvalid for anything else."""
        found: float | None = self._typed(name, _is_number, "a number")
        return found

    def integer(self, name: str, bits: int = 32) -> int | None:
        """Take an integer that fits a field of `bits`. Raises RequestInvalid for anything else."""
        found: int | None = self._left.pop(name, None)
        if found is not None and not (type(found) is int and -1 << (bits - 1) <= found < 1 << (bits - 1)):
            raise wrong(self.named(name), f"must be an integer of {bits} bits")
        return found

    def switch(self, name: str) -> bool:
        """Take true or false; false if it is left out. Raises RequestInvalid for anything else."""
        return bool(self._typed(name, _is_switch, "true or false"))

    def list(self, name: str) -> list[Any]:
        """Take a list; empty if it is left out. Raises RequestInvalid for anything else."""
        return self._typed(name, _is_list, "a list") or []

    def within(self, name: str) -> Parameters | None:
        """Take an object. Raises RequestInvalid for anything else."""
        value = self.raw(name)
        return None if value is None else Parameters(value, self.named(name))

    def only(self, name: str, *values: object, why: str) -> None:
        """Take a parameter that may be left out or have one of `values`, which change nothing."""
        if (value := self.raw(name)) is not None and value not in values:
            raise wrong(self.named(name), why)

    def ignore(self, names: frozenset[str]) -> None:
        """Take what changes nothing."""
        for name in names:
            self._left.pop(name, None)

    def end(self) -> None:
        """Raise ParameterUnknown for a parameter that was not taken."""
        for name in self._left:
            raise unknown(self.named(name[:100]))

    def _typed(self, name: str, fits: Callable[[Any], bool], kind: str) -> Any:
        value = self._left.pop(name, None)
        if value is not None and not fits(value):
            raise wrong(self.named(name), f"must be {kind}")
        return value

    def __repr__(self) -> str:
        return f"<Parameters {self._place} {sorted(self._left)}>"


def read_shared(told: Parameters, spec: v1.GenerationSpec) -> None:
    """Read the model, sampling and stop, which both kinds have. Raises RequestInvalid naming the parameter."""
    model = told.text("model") or ""
    spec.model = "" if model == AUTO else model
    for name in _NUMBERS:
        if (number := told.number(name)) is not None:
            setattr(spec.sampling, name, number)
    for name, bits in _INTEGERS.items():
        if (whole := told.integer(name, bits)) is not None:
            setattr(spec.sampling, name, whole)
    _read_bias(told.raw("logit_bias"), spec.sampling)
    stop = told.raw("stop")
    if stop is not None:
        strings = [stop] if isinstance(stop, str) else stop
        if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
            raise wrong("stop", "must be a text or a list of texts")
        spec.stop.strings.extend(strings)
    if ids := told.list("stop_token_ids"):
        spec.stop.token_ids.extend(token_ids("stop_token_ids", ids))
    if told.switch("include_stop_str_in_output"):
        spec.stop.include_stop = True
    if told.switch("ignore_eos"):
        spec.stop.ignore_eos = True


def read_stream(told: Parameters, spec: v1.GenerationSpec) -> Asked:
    """Read how the answer is to be told, and refuse what nobody has taken."""
    stream, include_usage = told.switch("stream"), False
    options = told.within("stream_options")
    if options is not None:
        if not stream:
            raise wrong("stream_options", "goes with stream: true only")
        include_usage = options.switch("include_usage")
        options.ignore(frozenset({"include_obfuscation"}))
        options.end()
    told.ignore(NO_OPS)
    told.end()
    return Asked(spec, stream, include_usage)


def token_ids(name: str, values: object) -> list[int]:
    """Return `values` as token ids. Raises RequestInvalid naming `name` for anything else."""
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**32 for value in values):
        raise wrong(name, "must be a list of token ids")
    return values


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30  # NaN is none


def _read_bias(told: object, sampling: v1.Sampling) -> None:
    if told is None:
        return
    if not isinstance(told, Mapping):
        raise wrong("logit_bias", "must be an object of token ids and biases")
    for token, bias in told.items():
        if not token.isdecimal() or len(token) > 10 or int(token) >= 2**32 or not _is_number(bias):
            raise wrong("logit_bias", f"{token[:20]!r}: must be a token id with a number")
        sampling.logit_bias[int(token)] = bias
