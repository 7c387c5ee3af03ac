"""YAML files of parameters, entry by entry, with errors that name file and line.

Scalars stay the text that they are until a number is asked for, so that the element No is no
truth value.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ruamel.yaml
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from mlip_jax.config.errors import UserError
from mlip_jax.config.files import read_text


class Entry:
    """A value in a YAML file that knows its line and its name.

    Args:
        path: of the file.
        node: as the YAML reader gives it.
        name: for messages.
    """

    def __init__(self, path: Path, node: Any, name: str):
        self.path, self.name = path, name
        self._node = node

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return self._node.start_mark.line + 1

    def __getitem__(self, key: str) -> "Entry":
        """The entry of a key, which has to be there."""
        for known, value in self.items():
            if known.text() == key:
                return value
        raise self.error(f"the key {key} is missing")

    def get(self, key: str) -> "Entry | None":
        """The entry of a key, if there is one."""
        return next((value for known, value in self.items() if known.text() == key), None)

    def items(self) -> Iterator[tuple["Entry", "Entry"]]:
        """Keys and values of a mapping."""
        if not isinstance(self._node, MappingNode):
            raise self.error(f"got {self._shown()}; expected `key: value`")
        for key, value in self._node.value:
            name = " ".join(_scalars(key))
            yield Entry(self.path, key, name), Entry(self.path, value, f"{self.name}.{name}")

    def entries(self) -> list["Entry"]:
        """Entries of a sequence."""
        if not isinstance(self._node, SequenceNode):
            raise self.error(f"got {self._shown()}; expected a list")
        return [
            Entry(self.path, node, f"{self.name}[{i}]") for i, node in enumerate(self._node.value)
        ]

    def text(self) -> str:
        """A scalar as it stands, or the scalars of a list with spaces between."""
        return " ".join(_scalars(self._node))

    def number(self) -> float:
        """A finite number."""
        try:
            value = float(self._node.value) if isinstance(self._node, ScalarNode) else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"got {self._shown()}; expected a number")
        return value

    def integer(self, least: int = 0, most: int | None = None) -> int:
        """An integer in a range."""
        value = self.number()
        if not value.is_integer() or value < least or (most is not None and value > most):
            limits = f"from {least}" + (f" to {most}" if most is not None else "")
            raise self.error(f"got {self._shown()}; expected an integer {limits}")
        return int(value)

    def numbers(self, size: int | None = None) -> np.ndarray:
        """A list of finite numbers.

        Args:
            size: how many there have to be.
        """
        found = self.entries()
        if size is not None and len(found) != size:
            raise self.error(f"got {len(found)} values; expected {size}")
        return np.array([entry.number() for entry in found])

    def integers(self, size: int | None = None) -> list[int]:
        """A list of integers, which may be negative."""
        values = self.numbers(size)
        if not np.array_equal(values, np.round(values)):
            raise self.error(f"got {values.tolist()}; expected integers")
        return values.astype(int).tolist()

    def error(self, what: str) -> UserError:
        """An error in this entry."""
        return UserError(f"{self.path}, line {self.line}: {self.name}: {what}.")

    def _shown(self) -> str:
        if isinstance(self._node, ScalarNode):
            return repr(self._node.value)
        return "a list" if isinstance(self._node, SequenceNode) else "a mapping"


def read_document(path: Path) -> Entry:
    """The top of a YAML file.

    Raises:
        UserError: where it cannot be read or is no YAML, naming the line.
    """
    text = read_text(path)
    try:
        node = ruamel.yaml.YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or "broken YAML").splitlines()[0]
        raise UserError(f"{path}{line}: {problem}. The file is damaged.") from None
    except YAMLError as error:
        raise UserError(f"{path}: broken YAML: {error}.") from None
    if node is None:
        raise UserError(f"{path}: the file is empty.")
    return Entry(path, node, path.name)


def _scalars(node: Any) -> list[str]:
    if isinstance(node, ScalarNode):
        return [str(node.value)]
    if isinstance(node, SequenceNode):
        return [text for item in node.value for text in _scalars(item)]
    return ["…"]
