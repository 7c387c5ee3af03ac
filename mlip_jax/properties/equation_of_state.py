"""Equation of state: energies of several volumes and the curve of Birch and Murnaghan."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.graph import AtomicGraph, Leaf, pytree, volumes
from mlip_jax.potential import Potential, PredictFn, predict_fn
from mlip_jax.properties import inputs
from mlip_jax.properties.relaxed import relax_positions


@pytree
class EquationOfState:
    """Energies of one cell at several volumes, and a curve through them.

    Attributes:
        volumes: Å^3, of the cell.
        energies: eV, of the cell.
        energy: at the minimum of the curve, eV.
        volume: V0, there, Å^3.
        bulk_modulus: B0, there, eV/Å^3.
        bulk_derivative: B0', its derivative by the pressure.
        residual: root of the mean square distance of the energies from the curve, eV.
    """

    volumes: Float[Leaf, " points"]
    energies: Float[Leaf, " points"]
    energy: Float[Leaf, ""]
    volume: Float[Leaf, ""]
    bulk_modulus: Float[Leaf, ""]
    bulk_derivative: Float[Leaf, ""]
    residual: Float[Leaf, ""]


def equation_of_state_fn(
    predict: PredictFn,
) -> Callable[[Any, AtomicGraph], EquationOfState]:
    """Makes `(variables, graph of one structure a volume) -> EquationOfState`.

    Energies are without reference energies. Where the atoms of each volume are relaxed, derivatives
    by the variables are those of relaxed atoms, too, to first order: forces vanish.

    Args:
        predict: `potential.predict_fn(model)`.
    """

    def equation_of_state(variables: Any, graph: AtomicGraph) -> EquationOfState:
        return fit(volumes(graph.cell), predict(variables, graph).energy)

    return equation_of_state


def fit(volumes: Float[Leaf, " points"], energies: Float[Leaf, " points"]) -> EquationOfState:
    """Least squares of third order (Birch 1947, eq. 15), a cubic in `V^(-2/3)`: solved, not sought.

    The curve's minimum is NaN where it has none.

    Args:
        volumes: Å^3, four at least, different ones.
        energies: eV.
    """
    volumes, energies = jnp.asarray(volumes), jnp.asarray(energies)
    middle = jnp.mean(volumes)
    y = (volumes / middle) ** (-2.0 / 3.0) - 1.0
    rows = jnp.stack([jnp.ones_like(y), y, y * y, y * y * y], axis=1)
    level = jnp.mean(energies)
    q, r = jnp.linalg.qr(rows)
    a0, a1, a2, a3 = jax.scipy.linalg.solve_triangular(r, q.T @ (energies - level))
    offset = -a1 / (a2 + jnp.sqrt(a2 * a2 - 3.0 * a1 * a3))  # the root with positive curvature
    x = 1.0 + offset
    second, third = 2.0 * a2 + 6.0 * a3 * offset, 6.0 * a3
    volume = middle * x**-1.5
    distances = energies - level - rows @ jnp.stack([a0, a1, a2, a3])
    return EquationOfState(
        volumes=volumes,
        energies=energies,
        energy=level + a0 + offset * (a1 + offset * (a2 + offset * a3)),
        volume=volume,
        bulk_modulus=4.0 / 9.0 * second * x * x / volume,
        bulk_derivative=4.0 + 2.0 / 3.0 * x * third / second,
        residual=jnp.sqrt(jnp.mean(distances**2)),
    )


def curve(
    found: EquationOfState, volumes: Float[Array | np.ndarray, " points"]
) -> tuple[Float[Leaf, " points"], Float[Leaf, " points"]]:
    """Energies [eV] and pressures [eV/Å^3] of the curve (Birch 1947, eqs. 15 and 14).

    Args:
        found: V0, B0 and B0'.
        volumes: Å^3.
    """
    x = (found.volume / volumes) ** (2.0 / 3.0)
    e = x - 1.0
    form = found.bulk_derivative * e**3 + e * e * (6.0 - 4.0 * x)
    energies = found.energy + 9.0 / 16.0 * found.volume * found.bulk_modulus * form
    shape = 1.0 + 0.75 * (found.bulk_derivative - 4.0) * e
    return energies, 1.5 * found.bulk_modulus * (x**3.5 - x**2.5) * shape


def equation_of_state(
    potential: Potential,
    structure: Structure,
    span: float = 0.06,
    points: int = 9,
    relax: bool = True,
) -> EquationOfState:
    """Equation of state of a structure whose cell keeps its shape; float64, on the host.

    Args:
        potential: the potential; its reference energies are in the energies.
        structure: periodic in all directions; its volume is the middle one.
        span: largest relative change of the volume, to either side.
        points: number of volumes.
        relax: whether atoms relax at each volume; else they keep their fractional coordinates.

    Raises:
        UserError: for a structure that is not periodic, too few points, a span that is not between
            0 and 0.5, atoms that do not relax, or a curve without a minimum in the range.
    """
    scaled = scaled_structures(structure, span, points)
    if relax:
        scaled = relax_positions(potential, scaled)
    variables, graph = inputs.variables_and_graph(potential, scaled)
    shift = float(np.sum(potential.reference_energy(structure.atomic_numbers)))
    found = jax.device_get(
        jax.jit(equation_of_state_fn(predict_fn(potential.model)))(variables, graph)
    )
    low, high = found.volumes.min(), found.volumes.max()
    if not low < found.volume < high:
        raise UserError(
            f"equation of state: the energies have no minimum between the volumes {low:.6g} and "
            f"{high:.6g} Å^3; expected one within. Relax the cell first, or widen the span."
        )
    total = {name: np.asarray(getattr(found, name) + shift) for name in ("energies", "energy")}
    return dataclasses.replace(found, **total)


def scaled_structures(structure: Structure, span: float, points: int) -> list[Structure]:
    """The structure with volumes from `1 - span` to `1 + span` times its own, evenly spaced.

    Raises:
        UserError: see `equation_of_state`.
    """
    if not np.all(structure.pbc):
        raise UserError(
            f"equation of state: got pbc {np.asarray(structure.pbc).tolist()}; expected three "
            "periodic directions, which make a volume."
        )
    if points < 4 or not 0.0 < span < 0.5:
        raise UserError(
            f"equation of state: got {points} points over ±{span:g} of the volume; expected 4 "
            "points or more, and a span between 0 and 0.5."
        )
    factors = np.cbrt(np.linspace(1.0 - span, 1.0 + span, points))
    return [
        dataclasses.replace(
            structure,
            cell=factor * structure.cell,
            positions=factor * structure.positions,
            labels=StructureLabels(),
        )
        for factor in factors
    ]
