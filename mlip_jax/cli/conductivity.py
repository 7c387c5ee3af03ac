"""`properties conductivity`: of a trajectory and the potential that made it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip_jax.cli import results, trajectories, use
from mlip_jax.cli.use import PotentialArgument
from mlip_jax.config import UserError

if TYPE_CHECKING:
    from mlip_jax.simulate.series import Series


def conductivity(
    potential: PotentialArgument,
    trajectory: trajectories.TrajectoryArgument,
    output: results.OutputOption = None,
    index: trajectories.FramesOption = ":",
    interval: trajectories.IntervalOption = None,
    highest: Annotated[
        float | None,
        typer.Option(help="THz, frequencies looked at: one to three times the highest vibration."),
    ] = None,
    longest: Annotated[
        float | None, typer.Option(help="fs, longest lag of the running integral.")
    ] = None,
    parts: Annotated[int, typer.Option(help="Parts of the trajectory, for errors.")] = 5,
    block: Annotated[int, typer.Option(help="Atoms at a time, to save memory; 0: all.")] = 0,
) -> None:
    """Lattice thermal conductivity by Green and Kubo, with a cepstral estimate of its error.

    The flux of heat is computed for each frame of an equilibrium trajectory (NVE, a fixed cell,
    with momenta, frames every 5 to 10 fs), whatever the potential; with message passing the cell
    stands among its images, which costs as much as a cluster of twice the receptive field. Right
    for solids, and for fluids of one element. Converge the size of the cell and the length.

    For example

        mlip-jax properties conductivity runs/si/potential runs/nve/trajectory.extxyz --highest 40
    """
    target, series, step = trajectories.read(trajectory, output, index, interval, "conductivity")
    import numpy as np

    from mlip_jax import units
    from mlip_jax.data.structure import Structure
    from mlip_jax.interop import catalogue
    from mlip_jax.properties import green_kubo, heat_flux, report, transport

    cell = _cell(trajectory, series)
    if series.momenta is None:
        raise UserError(f"{trajectory}: has no momenta; expected those that md writes.")
    loaded = catalogue.load(potential)
    masses = trajectories.masses_of(series)
    still = transport.without_drift(series.momenta / masses[:, None], masses)
    momenta = still * masses[:, None]
    number, total = len(masses), len(momenta)
    kinetic = 0.5 * float(np.mean(np.sum(momenta * still, axis=(1, 2))))
    temperature = 2.0 * kinetic / ((3 * number - 3) * units.BOLTZMANN)
    frames = (
        Structure(series.atomic_numbers, positions, cell, series.pbc)
        for positions in series.positions
    )
    fluxes = np.zeros((total, 3))
    with use.progress("fluxes") as progress:
        for i, flux in enumerate(heat_flux.heat_fluxes(loaded, frames, momenta, block)):
            fluxes[i] = flux
            progress(i + 1, total)
    found = green_kubo.conductivity(
        fluxes,
        step,
        float(abs(np.linalg.det(cell))),
        temperature,
        highest=highest,
        longest=longest,
        parts=parts,
    )
    values = report.conductivity(found, temperature, number, total)
    typer.echo(
        f"{values['conductivity_W_m_K']:.3g} ± {values['error_W_m_K']:.1g} W/(m K) at "
        f"{temperature:.0f} K, {found.coefficients} cepstral coefficients, {total} frames; "
        f"running integral {values['running_W_m_K'][-1]:.3g} ± "
        f"{values['running_errors_W_m_K'][-1]:.1g}"
    )
    results.write(target, values, lambda plots: plots.conductivity(found))


def _cell(file: Path, series: "Series"):
    """The cell [Å] of all frames."""
    import numpy as np

    change = float(np.ptp(series.cells, axis=0).max())
    if not np.all(series.pbc) or change > 1e-6:
        raise UserError(
            f"{file}: got pbc {series.pbc.tolist()} and cells that differ by {change:.3g} Å; "
            "expected three periodic directions and one cell for all frames, as of NVE."
        )
    return series.cells[0]


COMMANDS = (conductivity,)
"""In the order of the help."""
