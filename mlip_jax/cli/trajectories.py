"""`properties rdf`, `adf`, `diffusion` and `vibrations`: of structures and trajectories alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip_jax.cli import process, results, use
from mlip_jax.cli.process import Precision
from mlip_jax.config import UserError

if TYPE_CHECKING:
    from mlip_jax.data.structure import Structure
    from mlip_jax.simulate.series import Series

TrajectoryArgument = Annotated[Path, typer.Argument(help="A trajectory, such as md writes.")]
FramesOption = Annotated[str, typer.Option(help="Frames: a slice such as '100::5'.")]
IntervalOption = Annotated[
    float | None, typer.Option(help="fs between two frames; else by the times in the file.")
]
ElementOption = Annotated[str | None, typer.Option(help="The atoms that count; else all.")]


def rdf(
    structures: Annotated[Path, typer.Argument(help="A structure, or a trajectory.")],
    output: results.OutputOption = None,
    index: Annotated[str, typer.Option(help="Frames: a number or a slice such as '::10'.")] = ":",
    cutoff: Annotated[float, typer.Option(help="Å, largest distance.")] = 6.0,
    bins: Annotated[int, typer.Option(help="Number of bins.")] = 200,
    width: Annotated[float, typer.Option(help="Å, of a Gaussian about each distance.")] = 0.0,
    pair: Annotated[
        tuple[str, str] | None, typer.Option(help="Central and neighbouring element; else all.")
    ] = None,
) -> None:
    """Radial distribution function of structures, and the number of neighbours within a distance.

    The mean over all frames; distances may exceed half of the cell. No potential is needed.

    For example

        mlip-jax properties rdf runs/nvt/trajectory.extxyz --index 100::5

        mlip-jax properties rdf water.extxyz --pair O H --cutoff 8 --width 0.02 -o oh.json
    """
    from mlip_jax.properties import report
    from mlip_jax.properties import structure as computing

    target, frames = _frames(structures, output, index, "rdf")
    chosen = None if pair is None else (_number(pair[0]), _number(pair[1]))
    with use.progress("counting"):
        found = computing.radial_distribution(frames, cutoff, bins, width, chosen)
    values = report.radial_distribution(found, pair, len(frames))
    highest = max(range(bins), key=lambda i: values["values"][i])
    typer.echo(f"{len(frames)} frames, highest peak at {values['distances_A'][highest]:.3f} Å")
    results.write(target, values, lambda plots: plots.radial_distribution(found))


def adf(
    structures: Annotated[Path, typer.Argument(help="A structure, or a trajectory.")],
    cutoff: Annotated[float, typer.Option(help="Å, within which atoms are neighbours.")],
    output: results.OutputOption = None,
    index: Annotated[str, typer.Option(help="Frames: a number or a slice such as '::10'.")] = ":",
    bins: Annotated[int, typer.Option(help="Number of bins.")] = 180,
    width: Annotated[float, typer.Option(help="Degrees, of a Gaussian about each angle.")] = 0.0,
    triple: Annotated[
        tuple[str, str, str] | None,
        typer.Option(help="Elements: neighbour, central atom, neighbour; else all."),
    ] = None,
) -> None:
    """Distribution of the angles between two neighbours of an atom.

    The mean over all frames. The first minimum of the radial distribution is a good cutoff.

    For example

        mlip-jax properties adf runs/melt/trajectory.extxyz --cutoff 2.9 --index 100::5

        mlip-jax properties adf water.extxyz --cutoff 1.3 --triple H O H -o hoh.json
    """
    from mlip_jax.properties import angles, report

    target, frames = _frames(structures, output, index, "adf")
    chosen = None
    if triple is not None:
        chosen = (_number(triple[0]), _number(triple[1]), _number(triple[2]))
    with use.progress("counting"):
        found = angles.angular_distribution(frames, cutoff, bins, width, chosen)
    values = report.angular_distribution(found, triple, len(frames))
    highest = max(range(bins), key=lambda i: values["values_per_deg"][i])
    typer.echo(
        f"{len(frames)} frames, {values['angles_at_an_atom']:.2f} angles at an atom, highest peak "
        f"at {values['angles_deg'][highest]:.1f} degrees"
    )
    results.write(target, values, lambda plots: plots.angular_distribution(found))


def diffusion(
    trajectory: TrajectoryArgument,
    output: results.OutputOption = None,
    index: FramesOption = ":",
    element: ElementOption = None,
    interval: IntervalOption = None,
    parts: Annotated[int, typer.Option(help="Parts of the trajectory, for errors.")] = 5,
    window: Annotated[
        tuple[float, float], typer.Option(help="Part of the lags that the line is fitted to.")
    ] = (0.2, 1.0),
    dimensions: Annotated[int, typer.Option(help="In which atoms move.", min=1, max=3)] = 3,
) -> None:
    """Mean square displacements, and the coefficient of diffusion with its standard error.

    Einstein's relation; the drift of the centre of mass is taken off. Look at the plot: in the
    window the curve must be a line. Frames must be so close that no atom moves by half a cell from
    one to the next.

    For example

        mlip-jax properties diffusion runs/melt/trajectory.extxyz --index 500:

        mlip-jax properties diffusion cell.traj --element Li --interval 20 -o li.json
    """
    target, series, step = read(trajectory, output, index, interval, "diffusion")
    from mlip_jax.properties import report, transport

    chosen = _of_element(series, element)
    with use.progress("correlating"):
        moved = transport.without_drift(series.positions, masses_of(series))
        found = transport.diffusion(
            moved[:, chosen], step, parts=parts, window=window, dimensions=dimensions
        )
    values = report.diffusion(found, element, len(moved))
    typer.echo(
        f"D = {values['coefficient_cm2_s']:.3g} ± {values['error_cm2_s']:.1g} cm²/s, from lags of "
        f"{found.window[0]:g} to {found.window[1]:g} fs"
    )
    results.write(target, values, lambda plots: plots.diffusion(found))


def vibrations(
    trajectory: TrajectoryArgument,
    output: results.OutputOption = None,
    index: FramesOption = ":",
    element: ElementOption = None,
    interval: IntervalOption = None,
    longest: Annotated[
        float | None,
        typer.Option(help="fs, the longest lag: one over it is the resolution; else a quarter."),
    ] = None,
) -> None:
    """Autocorrelation of velocities, and its spectrum: the vibrational density of states.

    The file must have momenta, with frames closer than half of the shortest period.

    For example

        mlip-jax properties vibrations runs/nve/trajectory.extxyz --longest 2000
    """
    target, series, step = read(trajectory, output, index, interval, "vibrations")
    import jax.numpy as jnp

    from mlip_jax.properties import report, transport

    if series.momenta is None:
        raise UserError(f"{trajectory}: has no momenta; expected those that md writes.")
    frames = len(series.momenta)
    lags = frames // 4 if longest is None else int(longest / step) + 1
    if not 2 <= lags <= frames:
        raise UserError(
            f"vibrations: {frames} frames, {step:g} fs apart, allow lags from {step:g} to "
            f"{(frames - 1) * step:g} fs; got {lags - 1} lags. Change --longest, or give more "
            "frames."
        )
    masses, chosen = masses_of(series), _of_element(series, element)
    with use.progress("correlating"):
        velocities = transport.without_drift(series.momenta / masses[:, None], masses)
        momenta = masses[:, None] * velocities
        correlation = transport.velocity_autocorrelation(
            jnp.asarray(momenta[:, chosen]), jnp.asarray(masses[chosen]), lags
        )
        spectrum = transport.vibrational_spectrum(correlation, step)
    values = report.vibrations(correlation, spectrum, step, element, frames)
    highest = max(range(len(values["states_per_THz"])), key=lambda i: values["states_per_THz"][i])
    typer.echo(
        f"{frames} frames, {step:g} fs apart; highest peak at "
        f"{values['frequencies_THz'][highest]:.2f} THz"
    )
    results.write(target, values, lambda plots: plots.vibrations(correlation, spectrum, step))


COMMANDS = (rdf, adf, diffusion, vibrations)
"""In the order of the help."""


def _frames(
    file: Path, output: Path | None, index: str, name: str
) -> "tuple[Path, list[Structure]]":
    """The file to write, and the structures."""
    process.prepare_jax(Precision.float64)
    from mlip_jax.data import formats

    target = results.target(output, name)
    frames = formats.read(file, index=index)
    if not frames:
        raise UserError(f"{file}: got no structures (index {index!r}); expected some.")
    return target, frames


def read(
    file: Path, output: Path | None, index: str, interval: float | None, name: str
) -> "tuple[Path, Series, float]":
    """The file to write, the frames, and the time between them [fs]."""
    process.prepare_jax(Precision.float64)
    from mlip_jax.simulate import series

    target = results.target(output, name)
    found = series.read_series(file, index)
    step = found.interval if interval is None else interval
    if step is None:
        raise UserError(f"{file}: the frames have no times; give the --interval between two [fs].")
    if not step > 0.0:
        raise UserError(f"--interval: got {step:g} fs; expected a positive time.")
    return target, found, step


def masses_of(series: "Series"):
    """Masses of the atoms [amu]."""
    import numpy as np

    from mlip_jax import elements

    return np.array(elements.MASSES)[series.atomic_numbers]


def _of_element(series: "Series", symbol: str | None):
    """Mask of the atoms of an element."""
    import numpy as np

    if symbol is None:
        return np.ones(len(series.atomic_numbers), bool)
    chosen = series.atomic_numbers == _number(symbol)
    if not chosen.any():
        raise UserError(f"--element: there is no {symbol} in the trajectory.")
    return chosen


def _number(symbol: str) -> int:
    from mlip_jax import elements

    try:
        return elements.atomic_number(symbol)
    except ValueError as error:
        raise UserError(str(error)) from None
