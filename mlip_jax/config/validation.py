"""Plain values checked against types: strictly, with every fault in one message."""

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pydantic

from mlip_jax.config.errors import UserError, kind_of, unknown_name

T = TypeVar("T")


def parse(cls: type[T], mapping: Mapping[str, Any] | None, where: str) -> T:
    """Makes a frozen dataclass of a mapping, strictly.

    Args:
        cls: the dataclass; ranges of its fields stand in `typing.Annotated` constraints.
        mapping: `None` (an empty section) gives the defaults.
        where: name of the section, for messages.

    Raises:
        UserError: for unknown or missing keys and for values of a wrong type or range; all of them
            in one message.
    """
    return validate(cls, {} if mapping is None else mapping, where)


def validate(annotation: Any, value: Any, where: str) -> Any:
    """Checks a plain value against a type, strictly, and returns it in that type.

    Raises:
        UserError: for a value that does not fit.
    """
    adapter = pydantic.TypeAdapter(annotation)
    # Strict mode refuses a list for a tuple in Python values, and takes it in JSON.
    text = json.dumps(_json_ready(value))
    try:
        return adapter.validate_json(text, strict=True, extra="forbid")
    except pydantic.ValidationError as error:
        faults = _faults(error.errors(include_url=False), value)
    raise UserError("\n".join(_explain(annotation, fault, where) for fault in faults))


def json_schema(annotation: Any) -> dict[str, Any]:
    """JSON schema of a section, for editors; unknown keys are errors in it, too."""
    return _forbid_unknown(pydantic.TypeAdapter(annotation).json_schema())


class _Fault(NamedTuple):
    path: tuple[Any, ...]
    kind: str
    got: Any
    expected: str


def _faults(details: Sequence[Any], value: Any) -> list[_Fault]:
    """One fault for each place: of the members of a union, those that fitted best."""
    found: dict[tuple[Any, ...], _Fault] = {}
    for detail in details:
        path = _keys(detail["loc"], value, detail["type"])
        reason = detail.get("ctx", {}).get("error") if detail["type"] == "value_error" else None
        expected = str(reason or detail["msg"].removeprefix("Input should be "))
        if path in found:
            expected = f"{found[path].expected}, or {expected}"
        found[path] = _Fault(path, detail["type"], detail["input"], expected)
    inner = [p for p in found if not any(q != p and q[: len(p)] == p for q in found)]
    return [found[path] for path in inner]


def _keys(location: Sequence[Any], value: Any, kind: str) -> tuple[Any, ...]:
    """A location without the names of the members of unions that pydantic puts into it."""
    keys = []
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(value, Mapping) and (step in value or str(step) in map(str, value)):
            value = value.get(step, value.get(str(step)))
        elif isinstance(value, list | tuple) and isinstance(step, int):
            value = value[step]
        elif not (last and kind.startswith("missing")):
            continue
        keys.append(step)
    return tuple(keys)


def _explain(annotation: Any, fault: _Fault, where: str) -> str:
    path = ".".join([where, *map(str, fault.path)])
    if fault.kind in ("unexpected_keyword_argument", "extra_forbidden"):
        section = ".".join([where, *map(str, fault.path[:-1])])
        known = _known_keys(annotation, fault.path)
        return str(unknown_name(section, "key", fault.path[-1], known))
    if fault.kind.startswith("missing"):
        return f"{path}: missing; this key has no default. Set it."
    if fault.kind == "value_error":
        return f"{path}: {fault.expected}"
    got = json.dumps(fault.got, default=str)
    return f"{path}: got {got} ({kind_of(fault.got)}); expected {fault.expected}."


def _known_keys(annotation: Any, location: Sequence[Any]) -> list[str]:
    """Keys of the dataclasses at the parent of a location inside a type."""
    candidates = _dataclasses_in(annotation)
    for step in location[:-1]:
        hints = [typing.get_type_hints(c, include_extras=True) for c in candidates]
        inner = [h[step] for h in hints if step in h]
        if inner:
            candidates = [c for a in inner for c in _dataclasses_in(a)]
    return sorted({f.name for c in candidates for f in dataclasses.fields(c) if f.init})


def _dataclasses_in(annotation: Any) -> list[Any]:
    """Dataclasses that a type mentions, through unions, tuples, lists and mappings."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [c for a in typing.get_args(annotation) for c in _dataclasses_in(a)]


def _forbid_unknown(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_forbid_unknown(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _forbid_unknown(item) for key, item in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)  # a date, which YAML makes of 2024-01-01
