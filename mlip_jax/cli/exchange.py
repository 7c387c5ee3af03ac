"""`import`: published potentials become potentials of ours."""

from pathlib import Path
from typing import Annotated

import typer

from mlip_jax.cli import process
from mlip_jax.cli.process import Precision


def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="Such as snap.")],
    files: Annotated[list[Path], typer.Argument(help="Files of the published potential.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the potential.")],
) -> None:
    """Import a published potential; its numbers stay those of the program it was made for.

    Formats: `snap` (LAMMPS: `.snapcoeff`, `.snapparam` and, for a hybrid with ZBL, `.snap`); `gap`
    (QUIP: `.xml`, with its `.sparseX` files beside it).

    For example

        mlip-jax import snap Ta06A.snapcoeff Ta06A.snapparam Ta06A.snap -o potentials/ta

        mlip-jax evaluate potentials/ta structures.extxyz
    """
    process.prepare_jax(Precision.float64)
    from mlip_jax import elements, storage
    from mlip_jax.interop import weights

    potential = weights.read(format_name, files)
    storage.save(potential, output)
    typer.echo(
        f"{format_name} potential for {', '.join(elements.symbols(sorted(potential.species)))}: "
        f"{output}"
    )
