"""Our cluster expansions as files for LAMMPS's `pair_style pace`: `.yace`, and commands, `.pace`.

What `ace` reads is written here. Functions become sums of products of the complex atomic basis, the
C-tilde form; scales are multiplied out, and `E0` holds the reference energies.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.ace import ClusterExpansion
from mlip_jax.descriptors.ace_functions import sizes
from mlip_jax.descriptors.ace_radial import SHORTEST, Bond
from mlip_jax.interop.weights import ctilde_export
from mlip_jax.interop.weights.ace import FORMS, RADIAL
from mlip_jax.interop.weights.ctilde_export import Expansion
from mlip_jax.models.local import Local
from mlip_jax.models.pace import PACE, Embedding
from mlip_jax.nn.finnis_sinclair import FinnisSinclair
from mlip_jax.nn.linear import Linear
from mlip_jax.potential import Potential

_BINS = 0.001
"""Width [Å] of the bins in which LAMMPS tabulates radial functions, where a model has none."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        species: atomic numbers.
        references: E0 of each element, eV.
        bonds: of each pair of elements (central, neighbour), row by row.
        radial: coefficients of the radial functions.
        embeddings: of each element.
        expansion: functions and their coefficients.
        bins: width of the bins of tables, Å.
    """

    species: tuple[int, ...]
    references: tuple[float, ...]
    bonds: tuple[Bond, ...]
    radial: Float[np.ndarray, "elements elements n l basis"]
    embeddings: tuple[Embedding, ...]
    expansion: Expansion
    bins: float = _BINS


def write(potential: Potential, stem: Path) -> list[Path]:
    """Writes a cluster expansion for LAMMPS.

    Args:
        potential: `ace`, linear or of several densities, or `pace`.
        stem: path of the files without their suffix.

    Returns:
        The files; the last one holds the commands that LAMMPS needs.

    Raises:
        UserError: for any other model.
    """
    name = stem.name.removesuffix(".yace")
    content = _content(potential)
    symbols = [elements.SYMBOLS[z] for z in content.species]
    commands = (
        "# LAMMPS commands (units metal); atom types in the order of the elements below.\n"
        f"pair_style pace\npair_coeff * * {name}.yace {' '.join(symbols)}\n"
    )
    paths = [stem.with_name(f"{name}.yace"), stem.with_name(f"{name}.pace")]
    for path, text in zip(paths, (_text(content), commands), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _content(potential: Potential) -> Content:
    model, variables = potential.model, potential.variables
    references = tuple(float(potential.reference_energies[z]) for z in potential.species)
    if isinstance(model, PACE):
        return _of_pace(model, variables, references)
    if (
        isinstance(model, Local)
        and isinstance(model.descriptor, ClusterExpansion)
        and isinstance(model.regressor, Linear | FinnisSinclair)
    ):
        return _of_local(model, variables, references)
    raise UserError(
        f"export ace: got the model {type(model).__name__}; expected a cluster expansion with a "
        "linear regressor or with densities, such as `ace`, or `pace`."
    )


def _of_pace(model: PACE, variables: Mapping[str, Any], references: tuple[float, ...]) -> Content:
    selection = model.selection
    params = {name: np.asarray(v, np.float64) for name, v in variables["params"].items()}
    species = model.species or ()
    scale = 1.0 if model.energy_scale is None else model.energy_scale
    embeddings = [
        dataclasses.replace(e, weights=tuple(scale * w for w in e.weights))
        for e in model.embeddings
    ]
    radial = params["radial"]
    if not selection.num_radial:  # programs may expect one
        radial = np.zeros((*radial.shape[:2], 1, 1, model.num_basis))
    orders = range(1, len(model.n_max) + 1)
    return Content(
        species,
        references,
        _of_one_kind(model.bonds * (len(species) ** 2 // len(model.bonds))),
        radial,
        tuple(embeddings) * (len(species) // len(embeddings)),
        Expansion(selection, tuple(params[f"order_{order}"] for order in orders)),
        _BINS if model.spline is None else model.spline,
    )


def _of_one_kind(bonds: tuple[Bond, ...]) -> tuple[Bond, ...]:
    """With inner ranges for all pairs or none: programs take the kind of one pair for that of all.

    Where others have one, a pair gets a range in which atoms never come.
    """
    if all(bond.inner is None for bond in bonds):
        return bonds
    if any(bond.inner is None and bond.core[0] for bond in bonds):
        raise UserError(
            "export ace: got a bond with a core repulsion and no inner range beside one with an "
            "inner range; expected inner ranges for both, or for none."
        )
    never = (SHORTEST, SHORTEST)
    return tuple(dataclasses.replace(bond, inner=bond.inner or never) for bond in bonds)


def _of_local(model: Local, variables: Mapping[str, Any], references: tuple[float, ...]) -> Content:
    descriptor, regressor = model.descriptor, model.regressor
    assert isinstance(descriptor, ClusterExpansion)
    species, selection = descriptor.species or (), descriptor.selection
    number = len(species)
    scale = 1.0 if model.energy_scale is None else model.energy_scale
    table, constant = _densities(model, variables, number)
    if isinstance(regressor, FinnisSinclair):
        if np.any(constant):
            raise UserError(
                "export ace: got densities of features with a shift, which the format lacks; "
                "expected `scaling: spread` (of `ace` with exponents), or none. Train again."
            )
        weights = regressor.weights or (1.0,) * table.shape[1]
        scaled = tuple(scale * weight for weight in weights)
        embedding = Embedding(scaled, regressor.exponents, regressor.form)
    else:
        table, embedding = scale * table, Embedding((1.0,), (1.0,))
        if not model.isolated_zero:
            pairs = zip(references, (scale * constant[:, 0]).tolist(), strict=True)
            references = tuple(energy + moved for energy, moved in pairs)
    ends = descriptor.separate * np.cumsum(sizes(selection))[:-1]
    parts = np.split(np.moveaxis(table, 2, 0), ends)
    unit = np.eye(max(selection.num_radial, 1), max(descriptor.n_max))[:, None]
    shape = (number, number, len(unit), selection.highest + 1, unit.shape[2])
    return Content(
        species,
        references,
        (descriptor.bond,) * number**2,
        np.broadcast_to(unit, shape),
        (embedding,) * number,
        Expansion(selection, tuple(parts), descriptor.separate, _weights(descriptor, variables)),
    )


def _densities(
    model: Local, variables: Mapping[str, Any], number: int
) -> tuple[Float[np.ndarray, "elements densities features"], Float[np.ndarray, "elements _"]]:
    """Coefficients of the plain functions, and constants: scaling multiplied out, in float64."""
    table = np.asarray(variables["params"]["regressor"]["coefficients"], np.float64)
    table = table.reshape(table.shape[0], -1, table.shape[-1])
    table = np.broadcast_to(table, (number, *table.shape[1:]))
    if model.scaling == "none":
        return table, np.zeros(table.shape[:2])
    shift, factor = (np.asarray(variables["constants"][name]) for name in ("shift", "factor"))
    table = table * factor[:, None]
    return table, -np.einsum("epf,ef->ep", table, shift)


def _weights(
    descriptor: ClusterExpansion, variables: Mapping[str, Any]
) -> Float[np.ndarray, "elements channels"] | None:
    """Weights of the elements in weighted sums."""
    if descriptor.element_channels is None:
        return None
    kind = "params" if descriptor.channel_weights == "trained" else "constants"
    return np.asarray(variables[kind]["descriptor"]["channels"], np.float64)


def _text(content: Content) -> str:
    number = len(content.species)
    lines = [
        "# Atomic cluster expansion of mlip_jax, for `pair_style pace` (units metal).",
        f"elements: [{', '.join(elements.SYMBOLS[z] for z in content.species)}]",
        f"E0: {list(content.references)}",
        f"deltaSplineBins: {content.bins!r}",
        "embeddings:",
        *(f"  {i}: {_embedding(e)}" for i, e in enumerate(content.embeddings)),
        "bonds:",
    ]
    for place, bond in enumerate(content.bonds):
        pair = divmod(place, number)
        lines.append(f"  {list(pair)}: {_bond(bond, content.radial[pair])}")
    lines.append("functions:")
    for element in range(number):
        found = ctilde_export.functions(content.expansion, element)
        lines.append(f"  {element}:" if found else f"  {element}: []")
        lines += [f"    - {function}" for function in found]
    return "\n".join(lines) + "\n"


def _embedding(embedding: Embedding) -> str:
    parameters = [
        float(value)
        for pair in zip(embedding.weights, embedding.exponents, strict=True)
        for value in pair
    ]
    return _mapping(
        ndensity=len(embedding.weights),
        FS_parameters=parameters,
        npoti=next(name for name, form in FORMS.items() if form == embedding.form),
        rho_core_cutoff=float(embedding.core_cutoff),
        drho_core_cutoff=float(embedding.core_width),
    )


def _bond(bond: Bond, radial: Float[np.ndarray, "n l basis"]) -> str:
    names = {ours: theirs for theirs, ours in RADIAL.items()}
    if bond.radial not in names:
        raise UserError(
            f"export ace: got the radial functions {bond.radial}, which the format lacks; train "
            f"with `radial` one of {', '.join(names)}."
        )
    inner = (0.0, 0.0) if bond.inner is None else bond.inner
    return _mapping(
        nradmax=radial.shape[0],
        lmax=radial.shape[1] - 1,
        nradbasemax=radial.shape[2],
        radbasename=names[bond.radial],
        radparameters=[float(bond.parameter)],
        radcoefficients=radial.tolist(),
        prehc=float(bond.core[0]),
        lambdahc=float(bond.core[1]),
        rcut=float(bond.cutoff),
        dcut=float(bond.width),
        rcut_in=float(inner[0]),
        dcut_in=float(inner[1]),
        inner_cutoff_type="density" if bond.inner is None else "distance",
    )


def _mapping(**values: Any) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in values.items())}}}"
