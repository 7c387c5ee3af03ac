"""Our SNAP potentials as files of LAMMPS: `.snapcoeff`, `.snapparam`, and the commands, `.snap`.

The energy of LAMMPS is `β_0 + Σ_k β_k B_k + ½ Σ_kl α_kl B_k B_l` with the plain components B; the
scale of the energy, scaling constants of the features and the energy of an isolated atom are
multiplied out. β_0 holds the reference energy of the element. Format: LAMMPS manual, `pair_style
snap`.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.bispectrum import Bispectrum, triples
from mlip_jax.models.local import Local
from mlip_jax.models.pair import ZBL
from mlip_jax.models.sum import Sum
from mlip_jax.nn.linear import Linear, Quadratic
from mlip_jax.potential import Potential


class Parts(NamedTuple):
    """What a potential consists of: the SNAP term, its variables, and a repulsion or none."""

    local: Local
    variables: Mapping[str, Any]
    zbl: ZBL | None


class Polynomial(NamedTuple):
    """Atom energies [eV] as a polynomial of the components, for each element.

    Attributes:
        constant: β_0.
        linear: β.
        quadratic: α, symmetric; `None` for linear models.
    """

    constant: Float[np.ndarray, " elements"]
    linear: Float[np.ndarray, "elements features"]
    quadratic: Float[np.ndarray, "elements features features"] | None


def write(potential: Potential, stem: Path) -> list[Path]:
    """Writes a SNAP potential for LAMMPS.

    Args:
        potential: `snap` (linear or quadratic, several or explicit elements), or a sum of it and
            one `zbl`.
        stem: path of the files without their suffix.

    Returns:
        The files; the last one holds the commands that LAMMPS needs.

    Raises:
        UserError: for any other model.
    """
    parts = _parts(potential)
    descriptor = parts.local.descriptor
    assert isinstance(descriptor, Bispectrum)
    polynomial = _polynomial(parts, potential.reference_energies)
    texts = {
        ".snapcoeff": _coefficients_text(descriptor, polynomial),
        ".snapparam": _parameters_text(descriptor, polynomial.quadratic is not None),
        ".snap": _commands_text(descriptor.species or (), parts.zbl, stem.name),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(stem.with_name(stem.name + suffix))
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def _parts(potential: Potential) -> Parts:
    model: nn.Module = potential.model
    variables = potential.variables
    zbl = None
    if isinstance(model, Sum):
        places = [i for i, term in enumerate(model.terms) if not isinstance(term, ZBL)]
        repulsions = [term for term in model.terms if isinstance(term, ZBL)]
        if len(places) != 1 or len(repulsions) > 1:
            names = ", ".join(type(term).__name__ for term in model.terms)
            raise UserError(f"export snap: got a sum of {names}; expected one SNAP and one ZBL.")
        name = f"terms_{places[0]}"
        model, zbl = model.terms[places[0]], next(iter(repulsions), None)
        variables = {kind: tree[name] for kind, tree in variables.items() if name in tree}
    if (
        not isinstance(model, Local)
        or not isinstance(model.descriptor, Bispectrum)
        or not isinstance(model.regressor, Linear | Quadratic)
    ):
        raise UserError(
            f"export snap: got the model {type(model).__name__}; expected bispectrum components "
            "with a linear or quadratic regressor, such as `snap`, alone or in a sum with `zbl`."
        )
    if zbl is not None and zbl.species != model.descriptor.species:
        raise UserError("export snap: SNAP and ZBL differ in species, or in their order.")
    return Parts(model, variables, zbl)


def _polynomial(parts: Parts, references: Mapping[int, float]) -> Polynomial:
    """Scaling, energy scale and energies of isolated atoms multiplied out, in float64."""
    local, descriptor = parts.local, parts.local.descriptor
    assert isinstance(descriptor, Bispectrum)
    species = descriptor.species or ()
    alone = descriptor.isolated_features()
    number, size = alone.shape
    table = np.asarray(parts.variables["params"]["regressor"]["coefficients"], np.float64)
    table = np.broadcast_to(table, (number, table.shape[1]))
    table = table * (1.0 if local.energy_scale is None else local.energy_scale)
    shift, factor = np.zeros((number, size)), np.ones((number, size))
    if local.scaling != "none":
        constants = parts.variables["constants"]
        shift, factor = (np.asarray(constants[k], np.float64) for k in ("shift", "factor"))
    average = _average(descriptor)
    linear = table[:, :size] * factor
    constant = -np.sum(linear * shift, axis=1)
    quadratic = None
    if isinstance(local.regressor, Quadratic):
        quadratic = np.zeros((number, size, size))
        rows, columns = np.triu_indices(size)
        quadratic[:, rows, columns] = quadratic[:, columns, rows] = table[:, size:]
        quadratic = quadratic * factor[:, :, None] * factor[:, None, :]
        moved = np.einsum("ekl,el->ek", quadratic, shift)
        linear, constant = linear - moved, constant + 0.5 * np.sum(moved * shift, axis=1)
        quadratic = average @ quadratic @ average
    linear = linear @ average
    if local.isolated_zero:
        constant = -np.sum(linear * alone, axis=1)
        if quadratic is not None:
            constant = constant - 0.5 * np.einsum("ek,ekl,el->e", alone, quadratic, alone)
    constant = constant + np.array([references[z] for z in species])
    return Polynomial(constant, linear, quadratic)


def _average(descriptor: Bispectrum) -> Float[np.ndarray, "features features"]:
    """Means over components that are equal: those with elements of equal degrees exchanged.

    The energy stays; LAMMPS's forces take their coefficients for equal.
    """
    densities = len(descriptor.species or ()) if descriptor.explicit else 1
    labels = [
        tuple(sorted(zip(triple, blocks, strict=True)))
        for blocks in itertools.product(range(densities), repeat=3)
        for triple in triples(descriptor.twojmax)
    ]
    places: dict[tuple, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    matrix = np.zeros((len(labels), len(labels)))
    for group in places.values():
        matrix[np.ix_(group, group)] = 1.0 / len(group)
    return matrix


def _coefficients_text(descriptor: Bispectrum, polynomial: Polynomial) -> str:
    species = descriptor.species or ()
    number, size = polynomial.linear.shape
    tables = [polynomial.constant[:, None], polynomial.linear]
    if polynomial.quadratic is not None:
        rows, columns = np.triu_indices(size)
        tables.append(polynomial.quadratic[:, rows, columns])
    table = np.concatenate(tables, axis=1)
    radii = descriptor.relative_radii or (1.0,) * number
    weights = descriptor.weights or (1.0,) * number
    zero = "are zero" if descriptor.subtract_isolated else "count (bzeroflag 0)"
    lines = [
        "# SNAP of mlip_jax for LAMMPS (units metal); the first coefficient of each element holds",
        "# its reference energy [eV], so that energies are total ones.",
        f"# Components of an isolated atom {zero}.",
        "",
        f"{number} {table.shape[1]}",
    ]
    for z, radius, weight, row in zip(species, radii, weights, table, strict=True):
        lines.append(f"{elements.SYMBOLS[z]} {0.5 * radius!r} {weight!r}")
        lines += [repr(value) for value in row.tolist()]
    return "\n".join(lines) + "\n"


def _parameters_text(descriptor: Bispectrum, quadratic: bool) -> str:
    values: dict[str, Any] = {
        "rcutfac": descriptor.cutoff,
        "twojmax": descriptor.twojmax,
        "rfac0": descriptor.rfac0,
        "rmin0": descriptor.rmin0,
        "switchflag": int(descriptor.switch),
        "bzeroflag": int(descriptor.subtract_isolated),
        "quadraticflag": int(quadratic),
        "chemflag": int(descriptor.explicit),
        "bnormflag": int(descriptor.normalized),
        "wselfallflag": int(descriptor.self_all),
    }
    lines = [f"{key} {value!r}" for key, value in values.items()]
    if descriptor.inner is not None:
        lines.append("switchinnerflag 1")
        for key, place in (("sinner", 0), ("dinner", 1)):
            lines.append(" ".join([key, *(repr(float(own[place])) for own in descriptor.inner)]))
    return "\n".join(lines) + "\n"


def _commands_text(species: tuple[int, ...], zbl: ZBL | None, name: str) -> str:
    symbols = " ".join(elements.SYMBOLS[z] for z in species)
    files = f"{name}.snapcoeff {name}.snapparam {symbols}"
    head = "# LAMMPS commands (units metal); atom types in the order of the elements below.\n"
    if zbl is None:
        return f"{head}pair_style snap\npair_coeff * * {files}\n"
    lines = [f"pair_style hybrid/overlay zbl {float(zbl.inner)!r} {float(zbl.cutoff)!r} snap"]
    for i, first in enumerate(species, 1):
        for j, second in enumerate(species[i - 1 :], i):
            lines.append(f"pair_coeff {i} {j} zbl {first} {second}")
    return head + "\n".join([*lines, f"pair_coeff * * snap {files}"]) + "\n"
