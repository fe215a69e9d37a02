"""Everything the doctor says, as one value and as JSON whose keys stay (docs/doctor.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from spillway.doctor.diagnosis import Finding, advise, diagnose
from spillway.doctor.family import BITS, FAMILIES, member
from spillway.doctor.fit import Asked, Fit, Verdict, fit
from spillway.doctor.machine import Machine
from spillway.doctor.weights import Model

FORMAT = 1
"""Counted up when a key of the JSON goes or changes its meaning."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one family at one width fits."""

    family: str
    bits: int
    fit: Fit


@dataclass(frozen=True, slots=True)
class Report:
    """The machine, the model where one was named, and what fits here. `configured`: the engine is told all of it."""

    machine: Machine
    asked: Asked
    findings: tuple[Finding, ...]
    families: tuple[Row, ...]
    model: Model | None = None
    fit: Fit | None = None
    configured: bool = False

    @property
    def healthy(self) -> bool:
        """Whether vLLM can run here, and the model with it.

        A model that fits with a shorter context only is one that an engine configured without max_model_len refuses.
        """
        if any(finding.severity == "error" for finding in self.findings):
            return False
        return self.fit is None or not (self.configured and self.fit.verdict is Verdict.SHORTER)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON's types. Sizes are bytes, lengths tokens; null is unknown."""
        return {
            "format": FORMAT,
            "healthy": self.healthy,
            "machine": machine_json(self.machine),
            "asked": asdict(self.asked),
            "model": model_json(self.model) if self.model else None,
            "fit": fit_json(self.fit) if self.fit else None,
            "findings": [asdict(finding) for finding in self.findings],
            "families": [{"family": row.family, "bits": row.bits, **fit_json(row.fit)} for row in self.families],
        }

    def __repr__(self) -> str:
        return f"<Report {'healthy' if self.healthy else 'ill'} {self.machine!r} {self.fit!r}>"


def report(
    machine: Machine, asked: Asked, model: Model | None, *, stream_tokens: int, configured: bool = False
) -> Report:
    """Put the machine, and the model where there is one, through all checks."""
    found = fit(model, machine, asked, stream_tokens=stream_tokens) if model else None
    free = Asked(gpu_memory_utilization=asked.gpu_memory_utilization, tensor_parallel_size=asked.tensor_parallel_size)
    rows = (
        Row(family, bits, fit(member(family, bits), machine, free, stream_tokens=stream_tokens))
        for family in FAMILIES
        for bits in BITS
    )
    advice = advise(model, machine, asked, found) if model and found else ()
    return Report(machine, asked, (*diagnose(machine), *advice), tuple(rows), model, found, configured)


def machine_json(machine: Machine) -> dict[str, Any]:
    """Return a machine as JSON's types."""
    told = asdict(machine)
    features = machine.cpu.features
    told["cpu"]["features"] = None if features is None else sorted(features)
    return {"device": machine.device, **told}


def model_json(model: Model) -> dict[str, Any]:
    """Return a model as JSON's types."""
    return {
        "name": model.name,
        "kind": model.shape.kind,
        "parameters": model.parameters,
        "bits": round(model.bits, 2),
        "exact": model.exact,
        "source": model.source,
        "layers": model.shape.depth,
        "context": model.shape.context,
        "stateful_layers": model.shape.stateful_layers,
    }


def fit_json(found: Fit) -> dict[str, Any]:
    """Return a fit as JSON's types."""
    return {**asdict(found), "verdict": str(found.verdict), "needed_bytes": found.needed_bytes}
