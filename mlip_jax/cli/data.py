"""`data inspect` and `data convert`: files of structures."""

from pathlib import Path
from typing import Annotated

import typer

from mlip_jax.cli import process

app = typer.Typer(help="Inspect and convert files of structures.", no_args_is_help=True)


@app.command()
@process.guarded
def convert(
    source: Annotated[Path, typer.Argument(help="File or directory to read.")],
    target: Annotated[Path, typer.Argument(help="File to write; its ending says the format.")],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels", metavar="KEY=VALUE", help="Such as energy=REF_energy. Repeatable."
        ),
    ] = None,
    index: Annotated[str, typer.Option(help="Frames: a number or a slice.")] = ":",
) -> None:
    """Convert structures and their labels to another format, in eV and Å.

    For example

        mlip-jax data convert runs/vasp silicon.h5 --labels energy=free_energy

        mlip-jax data convert all.extxyz every_tenth.extxyz --index ::10
    """
    from mlip_jax import config
    from mlip_jax.cli.use import check_writable
    from mlip_jax.config import UserError
    from mlip_jax.data import formats
    from mlip_jax.data.formats import LabelKeys

    keys = config.parse(LabelKeys, config.apply_overrides({}, labels or ()), "labels")
    structures = formats.read(source, keys=keys, index=index)
    if not structures:
        raise UserError(f"{source}: got no structures (index {index!r}); expected at least one.")
    check_writable(target)
    formats.write(target, structures)
    labelled = sum(structure.labels.energy is not None for structure in structures)
    typer.echo(f"{len(structures)} structures, {labelled} with an energy: {target}")
