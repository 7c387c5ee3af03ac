"""YAML files: version 1.2, plain values, overrides on the command line."""

import copy
import dataclasses
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ruamel.yaml
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mlip_jax.config.errors import UserError, kind_of


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
            f"{path}: got a {kind_of(value)} at the top level; expected `key: value` lines."
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
        where = f"override {override!r}"
        _assign(result, key.split("."), parse_yaml(text, where), where)
    return result


def with_key(mapping: Mapping[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """Returns a copy in which `section.key` has another value; `where` names it in messages.

    Raises:
        UserError: for a key into something that has no keys.
    """
    result = copy.deepcopy(dict(mapping))
    _assign(result, key.split("."), copy.deepcopy(value), where)
    return result


def _assign(target: Any, keys: Sequence[str], value: Any, origin: str) -> None:
    for position, key in enumerate(keys):
        where: Any = key
        if isinstance(target, list):
            if not key.isdigit() or int(key) >= len(target):
                raise UserError(f"{origin}: got index {key!r} into a list of {len(target)}.")
            where = int(key)
        elif not isinstance(target, dict):
            parent = ".".join(keys[:position])
            raise UserError(f"{origin}: {parent} is a {kind_of(target)}, which has no key {key!r}.")
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
