"""Modules as configs: built by name, written out, completed from the data.

In a config a module is `{name: {field: value, ...}}`; nested modules look the same. `registry` has
the names.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import flax.linen as nn

from mlip_jax import config, elements
from mlip_jax.config import UserError
from mlip_jax.models.registry import (
    COMMON_FIELDS,
    MODELS,
    PARTS,
    fields_of,
    holds_module,
    module_to_config,
    plain,
    resolve,
)
from mlip_jax.models.schema import json_schema

__all__ = [
    "MODELS",
    "PARTS",
    "Requirements",
    "build_model",
    "default_fields",
    "fill_from_statistics",
    "json_schema",
    "module_to_config",
    "requirements",
    "resolve",
]


class Requirements(NamedTuple):
    """What a model needs of its graphs.

    Attributes:
        cutoff: of the neighbour list, Å.
        prefix_cutoffs: shorter cutoffs [Å] whose neighbours it reads as prefixes of the rows.
        pair_cutoffs: of `prefix_cutoffs`, those with lists of pairs of neighbours (`pair_rooms`).
        reverse: whether it reads the slots of opposite edges.
        reciprocal_cutoff: of sums over reciprocal lattice vectors, 1/Å (0: it has none).
        inputs: further inputs that it reads, such as `total_charge`.
        hops: the energy of an atom depends on atoms within `hops` steps of at most a cutoff each;
            `None` where the model does not say.
        heads: sources (levels of theory) that it has a head for, in the order of
            `AtomicGraph.fidelity`; none where it treats all alike.
    """

    cutoff: float
    prefix_cutoffs: tuple[float, ...] = ()
    pair_cutoffs: tuple[float, ...] = ()
    reverse: bool = False
    reciprocal_cutoff: float = 0.0
    inputs: tuple[str, ...] = ()
    hops: int | None = None
    heads: tuple[str, ...] = ()


def requirements(module: nn.Module) -> Requirements:
    """What a model needs of its graphs, from those of its attributes that say so."""
    cutoff: Any = getattr(module, "cutoff")  # noqa: B009 (linen modules do not declare it)
    return Requirements(
        float(cutoff),
        tuple(getattr(module, "prefix_cutoffs", ())),
        tuple(getattr(module, "pair_cutoffs", ())),
        bool(getattr(module, "needs_reverse", False)),
        float(getattr(module, "reciprocal_cutoff", 0.0)),
        tuple(getattr(module, "inputs", ())),
        getattr(module, "hops", None),
        tuple(getattr(module, "heads", ())),
    )


def build_model(section: Any, where: str = "model") -> nn.Module:
    """Makes a module of `{name: {field: value}}`.

    Args:
        section: symbols of elements may stand in `species`.
        where: name of the section, for messages.

    Raises:
        UserError: for an unknown name or field, or a value of a wrong type or range.
    """
    name, values = _name_and_fields(section, where)
    target = resolve(name, where)
    where = f"{where}.{name}"
    fields = fields_of(target)
    for key in values:
        if key not in fields:
            raise config.unknown_name(where, "field", key, fields)
    missing = [key for key, field in fields.items() if field.required and key not in values]
    if missing:
        raise UserError(f"{where}.{missing[0]}: missing; this field has no default. Set it.")
    built = {k: _value(k, fields[k].annotation, v, f"{where}.{k}") for k, v in values.items()}
    try:
        return target(**built)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def default_fields(name: str) -> dict[str, Any]:
    """The fields of a name with their defaults as plain values; `None` where one must be set."""
    fields = fields_of(resolve(name))
    return {key: None if f.required else plain(key, f.default) for key, f in fields.items()}


def fill_from_statistics(module: nn.Module, statistics: Any) -> nn.Module:
    """Sets fields that are `None` and named like a statistic of the data, in nested modules too.

    Args:
        module: a model as the config gives it.
        statistics: a dataclass, such as `data.statistics.Statistics`.

    Raises:
        UserError: where the model's elements, given in the config, lack one of the data's.
    """
    known = {field.name for field in dataclasses.fields(statistics)}
    changes = {}
    for key in fields_of(type(module)):
        value = getattr(module, key)
        if key == "species" and value is not None and key in known:
            _check_covered(value, statistics.species, type(module).__name__)
        if value is None and key in known:
            changes[key] = getattr(statistics, key)
        elif isinstance(value, nn.Module):
            changes[key] = fill_from_statistics(value, statistics)
        elif isinstance(value, tuple) and any(isinstance(item, nn.Module) for item in value):
            changes[key] = tuple(fill_from_statistics(item, statistics) for item in value)
    return module.clone(**changes)


def _name_and_fields(section: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(section, Mapping) or len(section) != 1:
        keys = list(section) if isinstance(section, Mapping) else section
        raise UserError(
            f"{where}: got {keys!r}; expected one name with its fields, such as "
            f"`nequip: {{cutoff: 5.0}}`. Known names: {', '.join(sorted(MODELS))}."
        )
    name, values = next(iter(section.items()))
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"{where}.{name}: got {values!r}; expected fields as `key: value`.")
    return str(name), values or {}


def _value(key: str, annotation: Any, value: Any, where: str) -> Any:
    if holds_module(annotation):
        if value is None and type(None) in get_args(annotation):
            return None
        if isinstance(value, list | tuple):
            return tuple(build_model(v, f"{where}.{i}") for i, v in enumerate(value))
        return build_model(value, where)
    value = config.validate(COMMON_FIELDS.get(key, annotation), value, where)
    if key != "species" or value is None:
        return value
    try:
        return tuple(elements.atomic_number(item) for item in value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _check_covered(species: Sequence[int], data: Sequence[int], model: str) -> None:
    lacking = sorted(set(data) - set(species))
    if lacking:
        raise UserError(
            f"model: the species of {model} are {elements.symbols(species)}, and the data has "
            f"{elements.symbols(lacking)} too. Add them, or leave `species` out to take the data's."
        )
