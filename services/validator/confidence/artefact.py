"""A fitted model as it is written: JSON of plain numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.validator.confidence.formula import FEATURES, Formula
from services.validator.confidence.model import Expectation, Model, Section
from services.validator.confidence.novelty import Reference

PLAIN = Path(__file__).with_name("plain.json")
"""The model for targets that nothing is known of: weights set by hand."""
BUNDLED = Path(__file__).with_name("bundled.json")
"""The one for the bundled language model, under the target `bundled`: fitted by `python -m bench --only confidence`."""
MAX_BYTES = 8 * 2**20
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]


class ArtefactInvalid(ValueError):
    """The text is no model; the message names the field and says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LengthPart(_Part):
    """Mean and standard deviation of the natural logarithm of an answer's characters, one added."""

    mean: Number
    deviation: float = Field(gt=0, le=1e6, allow_inf_nan=False)


class SectionPart(_Part):
    """As `model.Section`."""

    target: str = Field("", max_length=256)
    task: str = Field("", max_length=64)
    intercept: Number = 0.0
    weights: dict[str, Number] = {}
    calibration: tuple[tuple[Number, Share], ...] = Field((), max_length=10_000)
    length: LengthPart | None = None
    reference: str = Field("", max_length=2**20)

    @field_validator("weights")
    @classmethod
    def _of_features(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if name not in FEATURES:
                raise ValueError(f"{name[:40]!r} is no feature; there are {', '.join(FEATURES)}")
        return weights

    @field_validator("calibration")
    @classmethod
    def _rising(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for (left, low), (right, high) in pairwise(points):
            if right <= left or high < low:
                raise ValueError("its sums do not rise, or its probabilities fall")
        return points

    @field_validator("reference")
    @classmethod
    def _readable(cls, text: str) -> str:
        if text:
            Reference.read(text)
        return text


class Artefact(_Part):
    """The whole file."""

    format: Literal[1] = 1
    name: str = Field(min_length=1, max_length=64)
    sections: tuple[SectionPart, ...] = Field(min_length=1, max_length=1000)


def read(content: bytes) -> Model:
    """Return the model that `content` is. Raises ArtefactInvalid."""
    if len(content) > MAX_BYTES:
        raise ArtefactInvalid(f"has {len(content)} bytes; at most {MAX_BYTES} are read")
    try:
        artefact = Artefact.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ArtefactInvalid(f"{'.'.join(map(str, first['loc'])) or 'model'}: {first['msg']}") from None
    name = f"{artefact.name}@{hashlib.sha256(content).hexdigest()[:12]}"
    return Model(tuple(_section(part, name) for part in artefact.sections))


def written(name: str, sections: Iterable[Section]) -> bytes:
    """Return `sections` as a file, numbers to six digits."""
    artefact = Artefact(name=name, sections=tuple(map(_part, sections)))
    return (json.dumps(artefact.model_dump(exclude_defaults=True) | {"format": 1}, indent=1) + "\n").encode()


def _part(section: Section) -> SectionPart:
    formula, expected = section.formula, section.expectation
    return SectionPart(
        target=section.target,
        task=section.task,
        intercept=round(formula.intercept, 6),
        weights={name: round(weight, 6) for name, weight in formula.weights.items()},
        calibration=tuple((round(at, 6), round(share, 6)) for at, share in formula.calibration),
        length=expected and LengthPart(mean=round(expected.mean, 6), deviation=round(expected.deviation, 6)),
        reference=section.reference.written() if section.reference is not None else "",
    )


def _section(part: SectionPart, model: str) -> Section:
    return Section(
        Formula(part.intercept, part.weights, part.calibration),
        part.target,
        part.task,
        None if part.length is None else Expectation(part.length.mean, part.length.deviation),
        Reference.read(part.reference) if part.reference else None,
        model,
    )
