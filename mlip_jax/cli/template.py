"""Commented configs, made of the sections' own defaults and docstrings."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from mlip_jax import config

WIDTH = 100


def section(name: str, cls: type, values: Mapping[str, Any]) -> str:
    """A section of a config with every key, its default and what it means.

    Args:
        name: of the section.
        cls: its dataclass.
        values: what stands in the place of the defaults, by key.
    """
    fields = {
        field.name: _default(field)
        for field in dataclasses.fields(cls)
        if field.name != "arguments"
    }
    return "\n".join([f"{name}:", *_lines({**fields, **values}, documentation(cls), "  ")])


def model(name: str, target: Callable[..., Any], fields: Mapping[str, Any]) -> str:
    """The section `model` for one name of the registry.

    Args:
        name: of the model.
        target: the class or preset behind it, for its docstring.
        fields: plain values by key.
    """
    lines = _lines(fields, documentation(target), "    ")
    return "\n".join(["model:", f"  {name}:", *lines])


def documentation(target: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a class or function says about each field or argument."""
    text = inspect.getdoc(target) or ""
    block = re.search(r"^(?:Attributes|Args):\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    if block is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?: {5,}.*\n?)*)", block.group(1), re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def _lines(fields: Mapping[str, Any], words: Mapping[str, str], indent: str) -> list[str]:
    lines = []
    for key, value in fields.items():
        comment = words.get(key, "")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            nested = _lines(inner, documentation(type(value)), indent + "  ")
            lines += [*_entry(f"{indent}{key}:", comment), *nested]
        elif value is None:
            lines += _entry(f"{indent}# {key}: null", comment)
        else:
            text = config.format_yaml({key: value}).rstrip("\n").splitlines()
            lines += _entry(indent + text[0], comment)
            lines += [indent + line for line in text[1:]]
    return lines


def _entry(line: str, comment: str) -> list[str]:
    """A line with its comment: behind it where there is room, else its first sentence above."""
    if not comment:
        return [line]
    first = re.split(r"(?<=[^.][.;])\s", comment, maxsplit=1)[0].rstrip(".;")
    for words in (comment.rstrip("."), first):
        if len(line) + len(words) + 4 <= WIDTH:
            return [f"{line}  # {words}"]
    indent = line[: len(line) - len(line.lstrip())]
    wrapped = textwrap.wrap(first, WIDTH - len(indent) - 2)
    return [*(f"{indent}# {words}" for words in wrapped), line]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default
