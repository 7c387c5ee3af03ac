"""`properties conductivity`: of a trajectory and the potential that made it."""

from typing import Annotated

import typer

from mlip_jax.cli import results, trajectories, use
from mlip_jax.cli.use import PotentialArgument


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
    with momenta, frames every 5 to 10 fs), whatever the potential but for long-ranged ones; with
    message passing the cell stands among its images within the reach of the potential. Right for
    solids, and for fluids of one element. Converge the size of the cell and the length.

    For example

        mlip-jax properties conductivity runs/si/potential runs/nve/trajectory.extxyz --highest 40
    """
    target, series, step = trajectories.read(trajectory, output, index, interval, "conductivity")
    from mlip_jax.interop import catalogue
    from mlip_jax.properties import report
    from mlip_jax.properties.conduction import conduction

    loaded = catalogue.load(potential)
    with use.progress("fluxes") as progress:
        run = conduction(
            loaded,
            series,
            step,
            highest=highest,
            longest=longest,
            parts=parts,
            block=block,
            progress=progress,
        )
    found, frames = run.conductivity, len(run.fluxes)
    values = report.conductivity(run, len(series.atomic_numbers))
    typer.echo(
        f"{values['conductivity_W_m_K']:.3g} ± {values['error_W_m_K']:.1g} W/(m K) at "
        f"{run.temperature:.0f} K, {found.coefficients} cepstral coefficients, {frames} frames; "
        f"running integral {values['running_W_m_K'][-1]:.3g} ± "
        f"{values['running_errors_W_m_K'][-1]:.1g}"
    )
    results.write(target, values, lambda plots: plots.conductivity(found))


COMMANDS = (conductivity,)
"""In the order of the help."""
