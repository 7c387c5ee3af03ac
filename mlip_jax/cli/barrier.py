"""`properties barrier`."""

from pathlib import Path
from typing import Annotated

import typer

from mlip_jax.cli import process, results, use
from mlip_jax.cli.at_rest import IndexOption
from mlip_jax.cli.process import Precision
from mlip_jax.cli.use import PotentialArgument


def barrier(
    potential: PotentialArgument,
    first: Annotated[Path, typer.Argument(help="File with the first minimum.")],
    last: Annotated[Path, typer.Argument(help="File with the last: the same atoms and cell.")],
    output: results.OutputOption = None,
    index: IndexOption = -1,
    images: Annotated[int, typer.Option(help="Images between the two.")] = 7,
    max_force: Annotated[float, typer.Option(help="eV/Å, of the band on any atom.")] = 0.01,
    max_steps: Annotated[int, typer.Option(help="Steps of the optimiser.")] = 1000,
) -> None:
    """Barrier between two minima: a nudged elastic band whose highest image climbs.

    Both ends are relaxed at fixed cell. Writes the path as extended XYZ beside the JSON.

    For example

        mlip-jax properties barrier runs/cu/potential here.extxyz there.extxyz --images 5
    """
    process.prepare_jax(Precision.float64)
    from mlip_jax.data import formats
    from mlip_jax.interop import catalogue
    from mlip_jax.properties import barrier as computing
    from mlip_jax.properties import report
    from mlip_jax.simulate import trajectory

    target = results.target(output, "barrier")
    ends = [trajectory.read_frame(file, index)[0] for file in (first, last)]
    loaded = catalogue.load(potential)
    with use.progress("barrier") as progress:
        found = computing.barrier(
            loaded, *ends, num_images=images, max_force=max_force, max_steps=max_steps,
            progress=progress,
        )  # fmt: skip
    formats.write(target.with_suffix(".extxyz"), found.images)
    typer.echo(
        f"{found.forward:.4f} eV forward, {found.backward:.4f} eV backward; "
        f"{found.steps} steps; {target.with_suffix('.extxyz')}"
    )
    results.write(target, report.barrier(found), lambda plots: plots.barrier(found))


COMMANDS = (barrier,)
"""In the order of the help."""
