"""Reflecting walls: atoms that cross one are mirrored at it, with their momentum.

The free flight between two hard walls is that of an unfolded coordinate, seen in a mirror at every
second passage. So a step whose drift is folded back at its end is the step of the system with
walls: energy is conserved as it is without them, and the canonical ensemble is that of the box.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.simulate.integrators import Ensemble

Axis = Literal["x", "y", "z"]
_AXES: tuple[Axis, ...] = ("x", "y", "z")

_PARALLEL = 1e-6
"""Å, by which a lattice vector may lean out of the plane of a wall."""

Walls = Mapping[Axis, tuple[float, float]]
"""Places [Å] of a lower and an upper wall, by axis."""


def reflecting(ensemble: Ensemble, walls: Walls, dtype: np.dtype) -> Ensemble:
    """The ensemble between walls.

    Args:
        ensemble: the integrator.
        walls: see `check`.
        dtype: of positions.
    """
    places = [(_AXES.index(axis), *pair) for axis, pair in walls.items()]

    def before(state, around):
        state, cell = ensemble.before(state, around)
        positions, momenta = state.position, state.momentum
        for axis, lower, upper in places:
            folded, mirrored = fold(positions[:, axis], dtype.type(lower), dtype.type(upper))
            positions = positions.at[:, axis].set(folded)
            turned = jnp.where(mirrored, -momenta[:, axis], momenta[:, axis])
            momenta = momenta.at[:, axis].set(turned)
        return state.set(position=positions, momentum=momenta), cell

    return ensemble._replace(before=before)


def fold(
    places: Float[Array, " atoms"], lower: Any, upper: Any
) -> tuple[Float[Array, " atoms"], Bool[Array, " atoms"]]:
    """Places [Å] mirrored into an interval, and which have turned round an odd number of times."""
    width = upper - lower
    passages = jnp.floor((places - lower) / width)
    mirrored = passages % 2 == 1
    unfolded = places - passages * width
    folded = jnp.clip(jnp.where(mirrored, lower + upper - unfolded, unfolded), lower, upper)
    inside = (places >= lower) & (places <= upper)
    return jnp.where(inside, places, folded), mirrored & ~inside


def check(walls: Walls, structure: Structure, *, moving_cell: bool, drift_interval: int) -> None:
    """Looks whether a structure may be simulated between walls.

    Raises:
        UserError: for atoms beyond a wall, a periodic direction across one, a barostat, or a
            removal of total momentum.
    """
    if not walls:
        return
    if moving_cell:
        raise UserError(
            "simulation.walls: got walls and ensemble.barostat; expected one of them, as walls do "
            "not follow the cell. Remove the other."
        )
    if drift_interval:
        raise UserError(
            f"simulation.drift_interval: got {drift_interval} with walls, which change the total "
            "momentum; expected 0. Remove the key."
        )
    cell, pbc = np.asarray(structure.cell), np.asarray(structure.pbc, bool)
    for axis, (lower, upper) in walls.items():
        across = np.abs(cell[pbc][:, _AXES.index(axis)])
        if np.any(across > _PARALLEL):
            raise UserError(
                f"simulation.walls.{axis}: got a wall across a periodic direction of the "
                f"structure, pbc {pbc.tolist()}; expected periodic lattice vectors in the plane of "
                f"the wall. Make the structure finite along {axis} (pbc)."
            )
        places = structure.positions[:, _AXES.index(axis)]
        if np.any((places < lower) | (places > upper)):
            raise UserError(
                f"simulation.walls.{axis}: got [{lower:g}, {upper:g}] Å for atoms between "
                f"{places.min():.3f} and {places.max():.3f} Å; expected all atoms between the "
                "walls. Move the walls, or the atoms."
            )
