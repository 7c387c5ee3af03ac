"""Thermal conductivity of a potential, from a trajectory that it has made."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax import elements, units
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.properties import green_kubo, heat_flux
from mlip_jax.properties.green_kubo import Conductivity
from mlip_jax.properties.transport import without_drift
from mlip_jax.simulate.series import Series

_FIXED = 1e-6
"""Å: cells of frames that differ by less are one cell."""


class Conduction(NamedTuple):
    """A conductivity and the run that it is of.

    Attributes:
        conductivity: see `green_kubo.Conductivity`.
        temperature: mean of the run, K.
        fluxes: of heat, eV Å/fs.
    """

    conductivity: Conductivity
    temperature: float
    fluxes: Float[np.ndarray, "frames 3"]


def conduction(
    potential: Potential,
    series: Series,
    interval: float,
    *,
    highest: float | None = None,
    longest: float | None = None,
    parts: int = 5,
    block: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Conduction:
    """Computes the flux of heat of every frame, and the conductivity; in float64.

    The motion of the centre of mass is taken off.

    Args:
        potential: that has made the trajectory.
        series: of an equilibrium run in one cell, with momenta.
        interval: fs between frames.
        highest: THz, see `green_kubo.conductivity`.
        longest: fs, likewise.
        parts: likewise.
        block: atoms of a block, see `data.collate.make_graph`.
        progress: called with the numbers of frames done and of all.

    Raises:
        UserError: for a series without momenta or with a cell that changes, and as
            `heat_flux.heat_fluxes` and `green_kubo.conductivity`.
    """
    cell = _one_cell(series)
    if series.momenta is None:
        raise UserError(
            "conductivity: the trajectory has no momenta; expected those that md writes."
        )
    masses = np.array(elements.MASSES)[series.atomic_numbers]
    velocities = without_drift(series.momenta / masses[:, None], masses)
    momenta = masses[:, None] * velocities
    frames = (
        Structure(series.atomic_numbers, positions, cell, series.pbc)
        for positions in series.positions
    )
    fluxes = np.zeros((len(momenta), 3))
    for i, flux in enumerate(heat_flux.heat_fluxes(potential, frames, momenta, block)):
        fluxes[i] = flux
        if progress is not None:
            progress(i + 1, len(fluxes))
    kinetic = 0.5 * float(np.mean(np.sum(momenta * velocities, axis=(1, 2))))
    temperature = 2.0 * kinetic / ((3 * len(masses) - 3) * units.BOLTZMANN)
    volume = float(abs(np.linalg.det(cell)))
    found = green_kubo.conductivity(
        fluxes, interval, volume, temperature, highest=highest, longest=longest, parts=parts
    )
    return Conduction(found, temperature, fluxes)


def _one_cell(series: Series) -> Float[np.ndarray, "3 3"]:
    change = float(np.ptp(series.cells, axis=0).max())
    if not np.all(series.pbc) or change > _FIXED:
        raise UserError(
            f"conductivity: got pbc {series.pbc.tolist()} and cells that differ by {change:.3g} Å; "
            "expected three periodic directions and one cell for all frames, as of NVE."
        )
    return series.cells[0]
