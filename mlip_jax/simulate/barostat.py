"""Stochastic cell rescaling: a first-order barostat that samples the isothermal-isobaric ensemble.

Bernetti & Bussi (2020), J. Chem. Phys. 153, 114107, for the volume; Del Tatto, Raiteri,
Bernetti & Bussi (2022), Appl. Sci. 12, 1139, for cells that change their shape. In a time dt a cell
and all positions are deformed by `x @ exp(A)` and momenta by `p @ exp(-A)`, with

    A = P[ β dt / (3 τ) (p_int - p0) + sqrt(2 kT β dt / (3 τ V)) G ],

where `p_int = (Σ p⊗p/m + virial) / V`, G is a matrix of normal numbers, and P projects on the
strains that are allowed: symmetric ones, diagonal ones, or multiples of one. For the volume this is
the equation of Bernetti & Bussi. In the measure `dh / V^3` of the cells, which no deformation
changes, the stationary density is `V exp(-(H + p0 V) / kT)`: the ensemble with volumes weighted by
dV, as in Martyna, Tobias & Klein (1994). What V does to the noise and what it does to the density
cancel in the drift.

Where the total momentum is held at zero, the kinetic pressure lacks that of the centre of mass,
kT/V, which is added: else the volume would be that of a system of one atom less.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.graph import volumes
from mlip_jax.simulate.schedules import AtStep, at_step
from mlip_jax.simulate.settings import BarostatConfig

Matrix = Float[Array, "3 3"]
StrainFn = Callable[..., Matrix]

_TERMS = 8
"""Of the series of exp(A): exact to rounding for strains of several percent in one step."""


def build(
    config: BarostatConfig, timestep: float, kT: AtStep, drift_free: bool, dtype: np.dtype
) -> StrainFn:
    """Makes `(key, momenta, masses, step, cell, virial) -> A`, zero between the intervals.

    Args:
        config: of the barostat.
        timestep: fs.
        kT: eV, by step.
        drift_free: whether the total momentum is zero.
        dtype: of positions.
    """
    pressure = at_step(config.pressure, units.GPA, timestep, dtype)
    duration = timestep * config.interval / config.relaxation_time
    rate = dtype.type(config.compressibility / units.GPA * duration / 3.0)  # Å^3/eV
    identity = np.eye(3, dtype=dtype)

    def strain(key, momenta, masses, step, cell, virial) -> Array:
        heat, volume = kT(step), volumes(cell[None])[0]
        kinetic = jnp.matmul(momenta.T, momenta / masses, precision=jax.lax.Precision.HIGHEST)
        internal = kinetic + virial
        if drift_free:
            internal = internal + heat * identity
        drift = rate * (internal / volume - pressure(step) * identity)
        noise = jnp.sqrt(2.0 * heat * rate / volume) * jax.random.normal(key, (3, 3), dtype)
        turn = step % config.interval == 0
        return jnp.where(turn, project(config.cell, drift + noise), 0.0).astype(dtype)

    return strain


def project(kind: str, matrix: Matrix) -> Matrix:
    """The part of a matrix that deforms a cell of a kind (see `BarostatConfig.cell`)."""
    if kind == "flexible":
        return 0.5 * (matrix + matrix.T)
    diagonal = jnp.diagonal(matrix)
    if kind == "isotropic":
        diagonal = jnp.full_like(diagonal, jnp.mean(diagonal))
    return jnp.diag(diagonal)


def deform(
    positions: Float[Array, "atoms 3"], momenta: Float[Array, "atoms 3"], cell: Matrix, strain: Any
) -> tuple[Array, Array, Array]:
    """Positions, momenta and cell after a symmetric strain; phase-space volume is conserved."""
    forward, backward = growth(strain), growth(-strain)
    return positions + positions @ forward, momenta + momenta @ backward, cell + cell @ forward


def growth(strain: Matrix) -> Matrix:
    """`exp(strain) - 1` of a small strain: what is added, so that rounding is relative to it."""
    identity = jnp.eye(3, dtype=strain.dtype)
    result = identity
    for n in range(_TERMS, 1, -1):
        result = identity + strain @ result / n
    return strain @ result


def check_cell(
    config: BarostatConfig, cell: Float[np.ndarray, "3 3"], pbc: np.ndarray, any_fixed: bool
) -> None:
    """Refuses structures whose cell cannot change as a config says.

    Raises:
        UserError: for directions that are not periodic, a cell whose vectors are not along x, y and
            z for `axes`, or fixed atoms.
    """
    if not np.all(pbc):
        raise UserError(
            f"ensemble.barostat: got a structure with pbc {np.asarray(pbc).tolist()}; expected "
            "three periodic directions, without which there is no pressure. Remove the barostat."
        )
    if any_fixed:
        raise UserError(
            "ensemble.barostat: got fixed atoms, which cannot follow the cell; expected none. "
            "Remove the barostat or simulation.fixed_atoms and fixed_elements."
        )
    skew = np.abs(cell - np.diag(np.diag(cell))).max()
    if config.cell == "axes" and skew > 1e-6 * np.abs(cell).max():
        raise UserError(
            f"ensemble.barostat.cell: got axes for the cell {cell.tolist()} Å; expected vectors "
            "along x, y and z. Use flexible or isotropic, or rotate the structure."
        )
