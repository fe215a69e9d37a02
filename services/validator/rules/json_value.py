"""The rule that an answer is JSON: of a schema, or any object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from services.validator.instruction import MAX_SHAPE_CHARS, shape
from services.validator.rules.rule import Form, RuleSettings
from services.validator.schema import Schema
from services.validator.verdict import Constraint
from spillway.bundle import refers_out
from spillway.errors import SchemaInvalid


class JsonSettings(RuleSettings):
    """JSON that the schema accepts; without one, any object. What it refers to is known at the start alone."""

    kind: Literal["json"]
    json_schema: dict[str, Any] | bool | None = Field(None, alias="schema", description="absent: any object")
    schema_file: Path | None = Field(None, description="file of the schema, instead of `schema`")

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, said: Any) -> Any:
        if not isinstance(said, dict) or said.get("schema_file") is None:
            return said
        if "schema" in said:
            raise ValueError("give `schema` or `schema_file`, not both")
        try:
            return {**said, "schema": json.loads(Path(said["schema_file"]).read_text(encoding="utf-8"))}
        except OSError as error:
            raise ValueError(f"cannot read schema_file: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"schema_file is not JSON: {error}") from None

    @field_validator("json_schema")
    @classmethod
    def _compiles(cls, value: dict[str, Any] | bool | None) -> dict[str, Any] | bool | None:
        if value is not None and not refers_out(told := json.dumps(value)):
            try:
                Schema(told)
            except SchemaInvalid as error:
                raise ValueError(error.message) from None
        return value


def json_form(settings: JsonSettings) -> Form:
    """Return the rule of `settings`."""
    value = settings.json_schema
    if value is None:
        return Form("Answer with one JSON object alone.", Constraint("json_object"))
    form = shape(value)
    wanted = f"of this form alone: {form}" if len(form) <= MAX_SHAPE_CHARS else "alone, of the policy's schema"
    return Form(f"Answer with JSON {wanted}", Constraint("json_schema", json.dumps(value)))
