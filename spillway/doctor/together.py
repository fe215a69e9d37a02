"""What the doctor says of engines that share a machine, as one value and as JSON whose keys stay (docs/doctor.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from spillway.doctor.configuration import EnginePart
from spillway.doctor.diagnosis import Finding, advise, diagnose
from spillway.doctor.fit import Fit, Verdict, fit
from spillway.doctor.machine import Machine
from spillway.doctor.report import FORMAT, fit_json, machine_json, model_json
from spillway.doctor.sharing import Lot, divide
from spillway.doctor.weights import Model


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine's part. `why`: why it is not judged, where it is not."""

    lot: Lot | None
    model: Model | None = None
    fit: Fit | None = None
    why: str = ""

    @property
    def fits(self) -> bool:
        """A model that fits with a shorter context only is refused: nothing else asks for one."""
        return self.fit is None or self.fit.verdict is Verdict.FITS


@dataclass(frozen=True, slots=True)
class Together:
    """The machine, each engine by its name, and what stands in the way of them all."""

    machine: Machine
    engines: Mapping[str, Engine]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether vLLM can run here, and all engines at once."""
        return not any(finding.severity == "error" for finding in self.findings) and all(
            engine.fits for engine in self.engines.values()
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON's types. Sizes are bytes, lengths tokens; null is unknown."""
        return {
            "format": FORMAT,
            "healthy": self.healthy,
            "machine": machine_json(self.machine),
            "engines": {name: _engine(engine) for name, engine in self.engines.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __repr__(self) -> str:
        return f"<Together {'healthy' if self.healthy else 'ill'} {', '.join(self.engines)}>"


def judged(
    machine: Machine, parts: Mapping[str, EnginePart], models: Mapping[str, Model | None], *, stream_tokens: int
) -> Together:
    """Share the machine out as the engines will, with what is free of it now, and put each model through all checks."""
    division = divide(machine, parts, models)
    engines: dict[str, Engine] = {}
    for name, part in parts.items():
        lot, model = division.lots.get(name), models[name]
        if lot is None:
            engines[name] = Engine(None, why=f"its runtime, {part.runtime.kind}, runs by itself")
        elif model is None:
            engines[name] = Engine(lot, why="the bundled model: it is small")
        else:
            engines[name] = Engine(lot, model, fit(model, lot.machine, lot.asked, stream_tokens=stream_tokens))
    findings = (*diagnose(machine), *division.findings, *_advice(engines))
    return Together(machine, engines, findings)


def _advice(engines: Mapping[str, Engine]) -> Iterator[Finding]:
    for name, engine in engines.items():
        if engine.lot is None or engine.model is None or engine.fit is None:
            continue
        beside = f" ({engine.lot.beside})" if engine.lot.beside else ""
        for finding in advise(engine.model, engine.lot.machine, engine.lot.asked, engine.fit):
            yield replace(finding, what=f"{name}: {finding.what}{beside}")


def _engine(engine: Engine) -> dict[str, Any]:
    lot = engine.lot
    return {
        "cores": list(lot.cores) if lot else [],
        "devices": list(lot.devices) if lot else [],
        "asked": asdict(lot.asked) if lot else None,
        "model": model_json(engine.model) if engine.model else None,
        "fit": fit_json(engine.fit) if engine.fit else None,
    }
