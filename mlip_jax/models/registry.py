"""Which modules there are, by name, and what their fields are.

Names resolve to a linen class or to a preset, a function that returns a module; nothing is imported
before it is asked for. Fields of a class, or arguments of a preset, are keys and the only source of
defaults.
"""

import dataclasses
import importlib
import inspect
import math
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import annotated_types
import flax.linen as nn

from mlip_jax import config, elements

MODELS = {
    "ace": "mlip_jax.models.ace:ace",
    "allegro": "mlip_jax.models.allegro:Allegro",
    "behler_parrinello": "mlip_jax.models.behler_parrinello:behler_parrinello",
    "chgnet": "mlip_jax.models.chgnet:CHGNet",
    "d3": "mlip_jax.models.d3:D3",
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

COMMON_FIELDS = {
    "cutoff": Annotated[float, annotated_types.Gt(0), annotated_types.Lt(math.inf)],
    "species": tuple[int | str, ...] | None,
}
"""Types of the fields that mean the same in every model."""


class Field(NamedTuple):
    """A key of a module: its type, whether it has no default, and the default."""

    annotation: Any
    required: bool
    default: Any


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


def fields_of(target: Callable[..., Any]) -> dict[str, Field]:
    """Fields of a linen class or arguments of a preset, in order."""
    hints = typing.get_type_hints(target, include_extras=True)
    if not isinstance(target, type):
        arguments = inspect.signature(target).parameters.values()
        empty = inspect.Parameter.empty
        return {a.name: Field(hints[a.name], a.default is empty, a.default) for a in arguments}
    result = {}
    for field in dataclasses.fields(target):  # pyright: ignore[reportArgumentType]
        if field.init and field.name not in ("parent", "name"):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            missing = default is dataclasses.MISSING
            result[field.name] = Field(hints[field.name], missing, default)
    return result


def plain(key: str, value: Any) -> Any:
    """The value of a field as it stands in a config."""
    if isinstance(value, nn.Module):
        return module_to_config(value)
    if isinstance(value, tuple) and any(isinstance(item, nn.Module) for item in value):
        return [module_to_config(item) for item in value]
    if key == "species" and value is not None:
        return elements.symbols(value)
    return config.to_plain(value)


def holds_module(annotation: Any) -> bool:
    """Whether a type is a linen module or mentions one."""
    if isinstance(annotation, type) and issubclass(annotation, nn.Module):
        return True
    return any(holds_module(argument) for argument in typing.get_args(annotation))


def module_to_config(module: nn.Module) -> dict[str, Any]:
    """The config `{name: {field: value}}` that builds a module, with every field written out.

    Raises:
        ValueError: for a class that is not registered.
    """
    target = f"{type(module).__module__}:{type(module).__qualname__}"
    names = [name for name, path in {**MODELS, **PARTS}.items() if path == target]
    if not names:
        raise ValueError(f"module_to_config: got {target}; expected a class in MODELS or PARTS.")
    return {names[0]: {key: plain(key, getattr(module, key)) for key in fields_of(type(module))}}
