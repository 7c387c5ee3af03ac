"""Axes of a study: what they are called, their values, and what each value changes in a config."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlip_jax.config import UserError, unknown_name
from mlip_jax.train.sections import SECTIONS

SHORT = {"seed": ("training.seed", "data.seed"), "train_size": ("data.train_size",)}
"""Axes that stand for keys of a config."""


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """One value of an axis.

    Attributes:
        label: the value, in tables and names of directories.
        changes: new values by `section.key`, or by section for the whole of it.
        config: path of a config whose sections replace those of the base before the changes.
    """

    label: Any
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """An axis with its choices, in order."""

    name: str
    choices: tuple[Choice, ...]

    @property
    def labels(self) -> list[Any]:
        """Of the choices."""
        return [choice.label for choice in self.choices]


def placeholders(base: Mapping[str, Any] | str) -> set[str]:
    """Names of the axes whose values are parts of the path of the base config."""
    return set(re.findall(r"{([^{}]*)}", base)) if isinstance(base, str) else set()


def parse_axes(section: Mapping[str, Any], base: Mapping[str, Any] | str) -> tuple[Axis, ...]:
    """The axes of a study.

    A list gives the values of one key: `seed` (of the parameters and of the split), `train_size`,
    any `section.key`, or `{name}` in the path of the base config. A mapping gives named choices:
    each a path of a config, or changes `section.key: value` with, perhaps, such a path under
    `config`.

    Args:
        section: what the study says.
        base: its base config or the path of it.

    Raises:
        UserError: for an axis that stands for no key, has no values or has one twice, and for
            placeholders without an axis.
    """
    if not section:
        raise UserError("study.axes: got none; expected at least one, such as seed: [0, 1, 2].")
    missing = placeholders(base) - set(section)
    if missing:
        raise unknown_name("study.base", "axis", sorted(missing)[0], section)
    return tuple(_axis(str(name), values, base) for name, values in section.items())


def _axis(name: str, values: Any, base: Mapping[str, Any] | str) -> Axis:
    where = f"study.axes.{name}"
    if not isinstance(values, list | Mapping) or not values:
        raise UserError(
            f"{where}: got {values!r}; expected a list of values, or a mapping of names to changes."
        )
    if isinstance(values, list):
        keys = () if name in placeholders(base) else _keys(name)
        choices = [Choice(value, dict.fromkeys(keys, value)) for value in values]
    else:
        choices = [_named(str(label), change, where) for label, change in values.items()]
    for number, choice in enumerate(choices):
        if isinstance(choice.label, Mapping):
            raise UserError(
                f"{where}.{number}: got a mapping; expected a plain value. Give each a name: "
                f"{name}: {{first: {{section.key: …}}, second: {{…}}}}."
            )
        if choice.label in [other.label for other in choices[:number]]:
            raise UserError(f"{where}: got {choice.label!r} twice; expected each value once.")
    return Axis(name, tuple(choices))


def _keys(name: str) -> Sequence[str]:
    """Keys of a config that an axis of plain values sets."""
    if name in SHORT:
        return SHORT[name]
    section, _, key = name.partition(".")
    if section in SECTIONS and key:
        return (name,)
    known = [*SHORT, *(f"{section}.KEY" for section in SECTIONS)]
    raise UserError(
        f"{unknown_name('study.axes', 'axis', name, known)} Or give its values names with changes."
    )


def _named(label: str, change: Any, where: str) -> Choice:
    where = f"{where}.{label}"
    if isinstance(change, str):
        return Choice(label, config=change)
    if change is not None and not isinstance(change, Mapping):
        raise UserError(
            f"{where}: got {change!r}; expected the path of a config, or changes section.key: "
            "value."
        )
    changes = {str(key): value for key, value in (change or {}).items()}
    path = changes.pop("config", None)
    if path is not None and not isinstance(path, str):
        raise UserError(f"{where}.config: got {path!r}; expected the path of a config.")
    for key in changes:
        if key.partition(".")[0] not in SECTIONS:
            raise unknown_name(where, "section", key.partition(".")[0], (*SECTIONS, "config"))
    return Choice(label, changes, path)
