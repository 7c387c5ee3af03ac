"""`data inspect` and `data convert`: files of structures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlip_jax.cli import process, use

LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="KEY=VALUE",
        help="How the file names a label, such as energy=REF_energy, or its units and signs, such "
        "as units.energy=hartree. Repeatable.",
    ),
]

app = typer.Typer(help="Inspect and convert files of structures.", no_args_is_help=True)


@app.command()
@process.guarded
def convert(
    source: Annotated[Path, typer.Argument(help="File or directory to read.")],
    target: Annotated[Path, typer.Argument(help="File to write; its ending says the format.")],
    labels: LabelsOption = None,
    index: use.IndexOption = ":",
) -> None:
    """Convert structures and their labels to another format, in eV and Å.

    For example

        mlip-jax data convert runs/vasp silicon.h5 --labels energy=free_energy

        mlip-jax data convert all.extxyz every_tenth.extxyz --index ::10
    """
    from mlip_jax.data import formats

    formats.writer(target)
    use.check_writable(target)
    structures, _ = _read(source, labels, index)
    formats.write(target, structures)
    labelled = sum(structure.labels.energy is not None for structure in structures)
    typer.echo(f"{len(structures)} structures, {labelled} with an energy: {target}")


@app.command()
@process.guarded
def inspect(
    path: Annotated[Path, typer.Argument(help="File or directory of labelled structures.")],
    labels: LabelsOption = None,
    index: use.IndexOption = ":",
    cutoffs: Annotated[
        list[float] | None, typer.Option("--cutoff", min=0.1, help="Å; repeatable. Else 4, 5, 6.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="For padding and memory.")] = 8,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for histograms as PNG.")
    ] = None,
) -> None:
    """Examine data before training on them: the data doctor.

    Counts, elements, coverage of the labels, checks of units and of the sign of the stress,
    reference energies, duplicates, overlapping atoms, outliers, neighbours, padding and memory.

    For example

        mlip-jax data inspect si.extxyz --labels energy=REF_energy --labels forces=REF_forces

        mlip-jax data inspect si.extxyz --cutoff 5 --batch-size 16 --output doctor
    """
    from rich.console import Console
    from rich.table import Table

    from mlip_jax.data import inspect as doctor

    structures, keys = _read(path, labels, index)
    report = doctor.inspect(
        structures, keys=keys, cutoffs=cutoffs or (4.0, 5.0, 6.0), batch_size=batch_size
    )
    console = Console(markup=False, highlight=False)
    for title, rows in doctor.tables(report).items():
        table = Table(title=title, title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if output is not None:
        for written in doctor.plot(report, output):
            typer.echo(str(written))


def _read(path: Path, labels: list[str] | None, index: str) -> tuple[list[Any], Any]:
    """Structures of a file, at least one, and the label keys that they were read with."""
    from mlip_jax import config
    from mlip_jax.config import UserError
    from mlip_jax.data import formats
    from mlip_jax.data.formats import LabelKeys

    keys = config.parse(LabelKeys, config.apply_overrides({}, labels or ()), "labels")
    structures = formats.read(path, keys=keys, index=index)
    if not structures:
        raise UserError(f"{path}: got no structures (index {index!r}); expected at least one.")
    return structures, keys
