"""The JSON schema of a config's `model` section, for editors."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

from mlip_jax import config
from mlip_jax.models.registry import (
    COMMON_FIELDS,
    MODELS,
    PARTS,
    fields_of,
    holds_module,
    plain,
    resolve,
)


def json_schema() -> dict[str, Any]:
    """JSON schema of a `model` section: every registered module with its fields."""
    definitions: dict[str, Any] = {}
    for name in {**MODELS, **PARTS}:
        definitions[name] = _module_schema(name, resolve(name), definitions)
    choices = [{"$ref": f"#/$defs/{name}"} for name in MODELS]
    every = [{"$ref": f"#/$defs/{name}"} for name in {**MODELS, **PARTS}]
    return {"oneOf": choices, "$defs": {**definitions, "module": {"oneOf": every}}}


def _module_schema(
    name: str, target: Callable[..., Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    fields = fields_of(target)
    properties = {}
    for key, field in fields.items():
        schema = _field_schema(key, field.annotation)
        definitions.update(schema.pop("$defs", {}))
        if not field.required:
            schema["default"] = plain(key, field.default)
        properties[key] = schema
    inner = {
        "type": ["object", "null"],
        "description": (inspect.getdoc(target) or "").partition("\n")[0],
        "properties": properties,
        "required": [key for key, field in fields.items() if field.required],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {name: inner},
        "required": [name],
        "additionalProperties": False,
    }


def _field_schema(key: str, annotation: Any) -> dict[str, Any]:
    if not holds_module(annotation):
        return config.json_schema(COMMON_FIELDS.get(key, annotation))
    module = {"$ref": "#/$defs/module"}
    null = [{"type": "null"}] if type(None) in get_args(annotation) else []
    return {"anyOf": [module, {"type": "array", "items": module}, *null]}
