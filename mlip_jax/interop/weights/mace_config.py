"""Arguments and constants of the models of mace-torch: what of them our model can be."""

import math
from typing import Any

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.interop.weights import state_dict
from mlip_jax.interop.weights.state_dict import StateDict
from mlip_jax.models.mace import MACE

_FIRST = {
    "RealAgnosticInteractionBlock": (False, False),
    "RealAgnosticResidualInteractionBlock": (True, False),
    "RealAgnosticDensityInteractionBlock": (False, True),
    "RealAgnosticDensityResidualInteractionBlock": (True, True),
}
"""Blocks that are known: whether they are residual, and divide by a density."""

_TRANSFORMS = {"None": None, "Agnesi": "agnesi", "Soft": "soft"}

_FIXED = {
    "radial_type": "bessel",
    "apply_cutoff": True,
    "use_so3": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_embedding_readout": False,
    "keep_last_layer_irreps": False,
    "embedding_specs": None,
    "edge_irreps": None,
    "gate": "silu",
}
"""Arguments that only these values are read of."""

_TRANSFORM = {"a": 1.0805, "q": 0.9183, "p": 4.5791, "alpha": 4.0}
_REPULSION = {
    "a_exp": 0.300,
    "a_prefactor": 0.4543,
    "c": [0.1818, 0.5099, 0.2802, 0.02817],
}
"""Constants of `nn.covalent` by their names in the files."""


def model(config: dict[str, Any]) -> MACE:
    """The model of a config, with a scale of 1.

    Raises:
        UserError: for missing arguments, and for models that are not supported.
    """

    def given(name: str) -> Any:
        return state_dict.given(config, name, "mace")

    for name, value in _FIXED.items():
        if name in config and config[name] not in (value, str(value)):
            raise UserError(
                f"mace: got {name} = {config[name]!r}; only {value!r} is supported. This model "
                "cannot be read."
            )
    blocks = [_class_name(given(name)) for name in ("interaction_cls_first", "interaction_cls")]
    unknown = [name for name in blocks if name not in _FIRST]
    if unknown or not _FIRST[blocks[1]][0] or _FIRST[blocks[0]][1] != _FIRST[blocks[1]][1]:
        raise UserError(
            f"mace: got the interactions {blocks[0]} and {blocks[1]}; supported are "
            f"{', '.join(_FIRST)}, the second one residual and both with a density or without."
        )
    transform = str(config.get("distance_transform", "None"))
    if transform not in _TRANSFORMS:
        raise UserError(f"mace: got distance_transform {transform}; known: {list(_TRANSFORMS)}.")
    correlation = given("correlation")
    orders = set(correlation) if isinstance(correlation, list) else {correlation}
    if len(orders) != 1:
        raise UserError(f"mace: got the correlations {correlation}; expected one for all layers.")
    numbers = [elements.atomic_number(int(z)) for z in given("atomic_numbers")]
    return MACE(
        species=tuple(numbers),
        cutoff=float(given("r_max")),
        num_layers=int(given("num_interactions")),
        hidden_irreps=str(given("hidden_irreps")),
        max_ell=int(given("max_ell")),
        correlation=int(orders.pop()),
        num_bessels=int(given("num_bessel")),
        polynomial_cutoff_p=int(given("num_polynomial_cutoff")),
        radial_mlp=tuple(config.get("radial_MLP") or (64, 64, 64)),
        readout_width=int(str(given("MLP_irreps")).partition("x")[0]),
        residual_first=_FIRST[blocks[0]][0],
        density_normalization=_FIRST[blocks[0]][1],
        distance_transform=_TRANSFORMS[transform],
        repulsion=float(bool(config.get("pair_repulsion", False))),
        avg_num_neighbors=float(given("avg_num_neighbors")),
        energy_scale=1.0,
    )


def _class_name(text: Any) -> str:
    return str(text).rpartition(".")[2].strip("'> ")


def head(config: dict[str, Any], head: str | None) -> tuple[int, int]:
    """Index of the head that is read, and the number of heads.

    Raises:
        UserError: for a head that the model lacks, or none of several.
    """
    heads = list(config.get("heads") or ["Default"])
    if len(heads) == 1 and head in (None, heads[0]):
        return 0, 1
    if head not in heads:
        raise UserError(
            f"mace: got the head {head}; the model has {', '.join(heads)}. Choose one by --head."
        )
    return heads.index(head), len(heads)


def check_constants(state: StateDict, model: MACE) -> None:
    """Refuses constants that the program can train and our model has fixed.

    Raises:
        UserError: naming the array.
    """
    bessel = np.arange(1, model.num_bessels + 1) * math.pi / model.cutoff
    expected: dict[str, Any] = {"radial_embedding.bessel_fn.bessel_weights": bessel}
    expected |= {f"radial_embedding.distance_transform.{k}": v for k, v in _TRANSFORM.items()}
    expected |= {f"pair_repulsion_fn.{k}": v for k, v in _REPULSION.items()}
    expected["pair_repulsion_fn.p"] = model.polynomial_cutoff_p
    radii = np.array(elements.COVALENT_RADII)
    for part in ("radial_embedding.distance_transform", "pair_repulsion_fn"):
        name = f"{part}.covalent_radii"
        if name in state and not np.allclose(state[name][1 : len(radii) + 1], radii, rtol=1e-5):
            raise UserError(f"{state.path}: {name}: got other radii than those of Cordero (2008).")
    for name, value in expected.items():
        if name not in state:
            continue
        found = state[name]
        if found.shape != np.shape(value) or not np.allclose(found, value, rtol=1e-5):
            raise UserError(
                f"{state.path}: {name}: got {found.tolist()}; expected {np.asarray(value).tolist()}"
                ". A model with other or trained constants cannot be read."
            )
