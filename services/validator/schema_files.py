"""The schemas of the settings: files and those of policies, read once, each sound before anything is judged."""

from __future__ import annotations

import json

from services.validator.policies import Policies
from services.validator.registered import Registered, field_of
from services.validator.rules.rule import Form
from services.validator.schema import Schema
from services.validator.settings import ValidatorSettings
from spillway.errors import SchemaInvalid
from spillway.settings import SettingsError


def read_schemas(settings: ValidatorSettings) -> dict[str, str]:
    """Return the texts of `validator.schemas` by their URI.

    Raises SettingsError naming the one that is wrong, or the rule of a policy that refers to what is not there.
    """
    texts: dict[str, str] = {}
    bounds = settings.judgement
    for uri, path in settings.schemas.items():
        try:
            texts[uri] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"validator.schemas.{uri}: cannot read {path}: {error}") from None
    if (size := sum(len(text.encode()) for text in texts.values())) > bounds.max_registered_bytes:
        said = f"have {size} bytes together; judgement.max_registered_bytes allows {bounds.max_registered_bytes}"
        raise SettingsError(f"validator.schemas: {said}")
    try:
        known = Registered(max_depth=bounds.max_schema_depth).joined(texts.items())
        for uri in texts:
            Schema(json.dumps({"$ref": uri}), settled=known)
    except SchemaInvalid as error:
        (wrong,) = error.fields
        named = next((uri for uri in texts if field_of(uri) == wrong.field), "")
        place = f"{settings.schemas[named]}: " if named else ""
        raise SettingsError(f"validator.schemas.{named}: {place}{wrong.description}") from None
    for held in Policies(settings.policies).rules:
        if isinstance(held.rule, Form) and held.rule.constraint.kind == "json_schema":
            try:
                Schema(held.rule.constraint.text, settled=known)
            except SchemaInvalid as error:
                raise SettingsError(f"{held.place}.schema: {error.fields[0].description}") from None
    return texts
