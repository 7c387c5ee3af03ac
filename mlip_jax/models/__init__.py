"""The registry: one name for each model, and modules as configs.

In a config a module is `{name: {field: value, ...}}`; nested modules look the same. Names resolve
to a linen class or to a preset, a function that returns a module; nothing is imported before it is
asked for. Fields of a class, or arguments of a preset, are keys and the only source of defaults.
"""

import dataclasses
import importlib
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import annotated_types
import flax.linen as nn

from mlip_jax import config, elements
from mlip_jax.config import UserError

MODELS = {
    "ace": "mlip_jax.models.ace:ace",
    "allegro": "mlip_jax.models.allegro:Allegro",
    "behler_parrinello": "mlip_jax.models.behler_parrinello:behler_parrinello",
    "chgnet": "mlip_jax.models.chgnet:CHGNet",
    "gap": "mlip_jax.models.gap:gap",
    "hdnnp_4g": "mlip_jax.models.hdnnp_4g:HDNNP4G",
    "lennard_jones": "mlip_jax.models.pair:LennardJones",
    "local": "mlip_jax.models.local:Local",
    "m3gnet": "mlip_jax.models.m3gnet:M3GNet",
    "mace": "mlip_jax.models.mace:MACE",
    "morse": "mlip_jax.models.pair:Morse",
    "mtp": "mlip_jax.models.mtp:mtp",
    "nequip": "mlip_jax.models.nequip:NequIP",
    "pace": "mlip_jax.models.pace:PACE",
    "painn": "mlip_jax.models.painn:PaiNN",
    "schnet": "mlip_jax.models.schnet:SchNet",
    "snap": "mlip_jax.models.snap:snap",
    "sum": "mlip_jax.models.sum:Sum",
    "tensornet": "mlip_jax.models.tensornet:TensorNet",
    "zbl": "mlip_jax.models.pair:ZBL",
}
"""What a config's `model` section may name: "module:attribute" of a class or preset."""

PARTS = {
    "acsf": "mlip_jax.descriptors.acsf:ACSF",
    "bispectrum": "mlip_jax.descriptors.bispectrum:Bispectrum",
    "cluster_expansion": "mlip_jax.descriptors.ace:ClusterExpansion",
    "finnis_sinclair": "mlip_jax.nn.finnis_sinclair:FinnisSinclair",
    "distance_kernel": "mlip_jax.descriptors.distance:DistanceKernel",
    "gaussian_process": "mlip_jax.nn.gaussian_process:GaussianProcess",
    "linear": "mlip_jax.nn.linear:Linear",
    "mlp": "mlip_jax.nn.mlp:ElementMLP",
    "moment_tensors": "mlip_jax.descriptors.moment_tensor:MomentTensors",
    "quadratic": "mlip_jax.nn.linear:Quadratic",
    "soap": "mlip_jax.descriptors.soap:SOAP",
    "symmetry_functions": "mlip_jax.descriptors.acsf:SymmetryFunctions",
    "triplet_kernel": "mlip_jax.descriptors.triplet:TripletKernel",
}
"""What a field of a model may name: descriptors and regressors."""

_Symbols = tuple[int | str, ...] | None
_COMMON_FIELDS = {
    "cutoff": Annotated[float, annotated_types.Gt(0), annotated_types.Lt(math.inf)],
    "species": _Symbols,
}
"""Types of the fields that mean the same in every model."""


class Requirements(NamedTuple):
    """What a model needs of its graphs.

    Attributes:
        cutoff: of the neighbour list, Å.
        prefix_cutoffs: shorter cutoffs [Å] whose neighbours it reads as prefixes of the rows.
        reverse: whether it reads the slots of opposite edges.
        reciprocal_cutoff: of sums over reciprocal lattice vectors, 1/Å (0: it has none).
        inputs: further inputs that it reads, such as `total_charge`.
    """

    cutoff: float
    prefix_cutoffs: tuple[float, ...] = ()
    reverse: bool = False
    reciprocal_cutoff: float = 0.0
    inputs: tuple[str, ...] = ()


def requirements(module: nn.Module) -> Requirements:
    """What a model needs of its graphs, from those of its attributes that say so."""
    cutoff: Any = getattr(module, "cutoff")  # noqa: B009 (linen modules do not declare it)
    return Requirements(
        float(cutoff),
        tuple(getattr(module, "prefix_cutoffs", ())),
        bool(getattr(module, "needs_reverse", False)),
        float(getattr(module, "reciprocal_cutoff", 0.0)),
        tuple(getattr(module, "inputs", ())),
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
    fields = _fields(target)
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


def resolve(name: str, where: str = "model") -> Callable[..., Any]:
    """The class or preset behind a name of `MODELS` or `PARTS`.

    Raises:
        UserError: for an unknown name.
    """
    known = {**MODELS, **PARTS}
    if name not in known:
        raise config.unknown_name(where, "model", name, known)
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def default_fields(name: str) -> dict[str, Any]:
    """The fields of a name with their defaults as plain values; `None` where one must be set."""
    fields = _fields(resolve(name))
    return {key: None if f.required else _plain(key, f.default) for key, f in fields.items()}


def module_to_config(module: nn.Module) -> dict[str, Any]:
    """The config `{name: {field: value}}` that builds a module, with every field written out.

    Raises:
        ValueError: for a class that is not registered.
    """
    target = f"{type(module).__module__}:{type(module).__qualname__}"
    names = [name for name, path in {**MODELS, **PARTS}.items() if path == target]
    if not names:
        raise ValueError(f"module_to_config: got {target}; expected a class in MODELS or PARTS.")
    return {names[0]: {key: _plain(key, getattr(module, key)) for key in _fields(type(module))}}


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
    for key in _fields(type(module)):
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


def json_schema() -> dict[str, Any]:
    """JSON schema of a `model` section, for editors: every registered module with its fields."""
    definitions: dict[str, Any] = {}
    for name in {**MODELS, **PARTS}:
        definitions[name] = _module_schema(name, resolve(name), definitions)
    choices = [{"$ref": f"#/$defs/{name}"} for name in MODELS]
    every = [{"$ref": f"#/$defs/{name}"} for name in {**MODELS, **PARTS}]
    return {"oneOf": choices, "$defs": {**definitions, "module": {"oneOf": every}}}


class _Field(NamedTuple):
    annotation: Any
    required: bool
    default: Any


def _fields(target: Callable[..., Any]) -> dict[str, _Field]:
    """Fields of a linen class or arguments of a preset, in order."""
    hints = typing.get_type_hints(target, include_extras=True)
    if not isinstance(target, type):
        arguments = inspect.signature(target).parameters.values()
        empty = inspect.Parameter.empty
        return {a.name: _Field(hints[a.name], a.default is empty, a.default) for a in arguments}
    result = {}
    for field in dataclasses.fields(target):  # pyright: ignore[reportArgumentType]
        if field.init and field.name not in ("parent", "name"):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            missing = default is dataclasses.MISSING
            result[field.name] = _Field(hints[field.name], missing, default)
    return result


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
    if _holds_module(annotation):
        if value is None and type(None) in typing.get_args(annotation):
            return None
        if isinstance(value, list | tuple):
            return tuple(build_model(v, f"{where}.{i}") for i, v in enumerate(value))
        return build_model(value, where)
    value = config.validate(_COMMON_FIELDS.get(key, annotation), value, where)
    if key != "species" or value is None:
        return value
    try:
        return tuple(elements.atomic_number(item) for item in value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, nn.Module):
        return module_to_config(value)
    if isinstance(value, tuple) and any(isinstance(item, nn.Module) for item in value):
        return [module_to_config(item) for item in value]
    if key == "species" and value is not None:
        return elements.symbols(value)
    return config.to_plain(value)


def _holds_module(annotation: Any) -> bool:
    """Whether a type is a linen module or mentions one."""
    if isinstance(annotation, type) and issubclass(annotation, nn.Module):
        return True
    return any(_holds_module(argument) for argument in typing.get_args(annotation))


def _check_covered(species: Sequence[int], data: Sequence[int], model: str) -> None:
    lacking = sorted(set(data) - set(species))
    if lacking:
        raise UserError(
            f"model: the species of {model} are {elements.symbols(species)}, and the data has "
            f"{elements.symbols(lacking)} too. Add them, or leave `species` out to take the data's."
        )


def _module_schema(
    name: str, target: Callable[..., Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    fields = _fields(target)
    properties = {}
    for key, field in fields.items():
        schema = _field_schema(key, field.annotation)
        definitions.update(schema.pop("$defs", {}))
        if not field.required:
            schema["default"] = _plain(key, field.default)
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
    if not _holds_module(annotation):
        return config.json_schema(_COMMON_FIELDS.get(key, annotation))
    module = {"$ref": "#/$defs/module"}
    null = [{"type": "null"}] if type(None) in typing.get_args(annotation) else []
    return {"anyOf": [module, {"type": "array", "items": module}, *null]}
