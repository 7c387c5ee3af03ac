"""YAML configs: read, override, validate strictly, write.

A section of a config is a frozen dataclass, its fields are the keys and the only defaults. YAML is
version 1.2: `1e-3` is a number and `No` is nobelium. Values keep their type: an integer may stand
for a float and a list for a tuple, nothing else is converted.
"""

import copy
import dataclasses
import difflib
import io
import json
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydantic
import ruamel.yaml
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

T = TypeVar("T")


class UserError(ValueError):
    """A mistake of the user's: the message says what was got, what was expected and what to do.

    The command line shows it without a traceback.
    """


def read_text(path: str | os.PathLike[str]) -> str:
    """Text of a file.

    Raises:
        UserError: where it is missing, a directory, unreadable or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file (working directory: {Path.cwd()}). Check the path."
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: got a directory; expected a file.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: got bytes that are no UTF-8 text (at {error.start}); expected a text file."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping.

    Raises:
        UserError: for a file that is missing or no such YAML, a repeated key included.
    """
    value = parse_yaml(read_text(path), str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: got a {_kind(value)} at the top level; expected `key: value` lines."
        )
    return value


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: for broken YAML, naming the line.
    """
    try:
        return ruamel.yaml.YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = (error.problem or "broken YAML").splitlines()[0]
        raise UserError(f"{where}{line}: {problem}. Correct the YAML there.") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{where}: broken YAML: {error}. Correct it.") from None


def dump_yaml(mapping: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a mapping (see `to_plain`) as YAML."""
    Path(path).write_text(format_yaml(mapping), encoding="utf-8")


def format_yaml(mapping: Mapping[str, Any]) -> str:
    """A mapping (see `to_plain`) as YAML text."""
    stream = io.StringIO()
    _writer().dump(_styled(to_plain(mapping)), stream)
    return stream.getvalue()


def to_plain(value: Any) -> Any:
    """Turns dataclasses, tuples, paths and numpy values into what YAML and JSON know.

    Raises:
        TypeError: for a value that has no plain form.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {to_plain(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [to_plain(v) for v in value]
    raise TypeError(f"to_plain: got a {type(value).__name__}; expected plain values.")


def apply_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy with `section.key=value` assignments applied; values are YAML.

    Args:
        mapping: the config.
        overrides: assignments; a whole number in the key is an index into a list.

    Raises:
        UserError: for an override of another form, or into something that has no keys.
    """
    result = copy.deepcopy(dict(mapping))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[^\s.=]+(\.[^\s.=]+)*", key):
            raise UserError(
                f"override: got {override!r}; expected section.key=value (training.epochs=10)."
            )
        _assign(result, key.split("."), parse_yaml(text, f"override {override!r}"), override)
    return result


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
        details = error.errors(include_url=False)
    raise UserError("\n".join(_explain(annotation, detail, where) for detail in details))


def json_schema(annotation: Any) -> dict[str, Any]:
    """JSON schema of a section, for editors; unknown keys are errors in it, too."""
    return _forbid_unknown(pydantic.TypeAdapter(annotation).json_schema())


def unknown_name(where: str, what: str, name: object, known: Collection[str]) -> UserError:
    """The error for a name that is not among the known ones, with the nearest of them."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"{where}: unknown {what} {name!r}; {hint}Known: {', '.join(sorted(known))}.")


def _explain(annotation: Any, detail: Any, where: str) -> str:
    location = list(detail["loc"])
    kind, got = detail["type"], detail["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        section = ".".join([where, *map(str, location[:-1])])
        return str(unknown_name(section, "key", location[-1], _known_keys(annotation, location)))
    path = ".".join([where, *map(str, location)])
    if kind in ("missing", "missing_argument"):
        return f"{path}: missing; this key has no default. Set it."
    if kind == "value_error":
        return f"{path}: {detail['ctx']['error']}"
    expected = detail["msg"].removeprefix("Input should be ")
    return f"{path}: got {json.dumps(got, default=str)} ({_kind(got)}); expected {expected}."


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


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "true or false", int: "integer"}
    return names.get(
        type(value), {float: "number", type(None): "nothing"}.get(type(value), "value")
    )


def _assign(target: Any, keys: Sequence[str], value: Any, override: str) -> None:
    for position, key in enumerate(keys):
        where: Any = key
        if isinstance(target, list):
            if not key.isdigit() or int(key) >= len(target):
                raise UserError(
                    f"override {override!r}: got index {key!r} into a list of {len(target)}."
                )
            where = int(key)
        elif not isinstance(target, dict):
            parent = ".".join(keys[:position])
            raise UserError(
                f"override {override!r}: {parent} is a {_kind(target)}, which has no key {key!r}."
            )
        if position == len(keys) - 1:
            target[where] = value
        elif isinstance(target, list):
            target = target[where]
        else:
            if target.get(where) is None:
                target[where] = {}
            target = target[where]


def _writer() -> ruamel.yaml.YAML:
    writer = ruamel.yaml.YAML()
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.width = 100
    writer.default_flow_style = False
    return writer


def _styled(value: Any) -> Any:
    """Lists of scalars (and of such lists) on one line, everything else in blocks."""
    if isinstance(value, dict):
        return {key: _styled(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if any(isinstance(item, dict) for item in value):
        return [_styled(item) for item in value]
    sequence = CommentedSeq(_styled(item) for item in value)
    sequence.fa.set_flow_style()
    return sequence
