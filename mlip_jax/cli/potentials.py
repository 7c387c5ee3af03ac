"""`potentials`: published potentials that load by name; `head`: one head of several."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer


def potentials(
    name: Annotated[
        str | None, typer.Argument(help="All that is known of one, instead of the list.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to write the one to.")
    ] = None,
) -> None:
    """List the published potentials that commands, `mj.load` and the ASE calculator know by name.

    Their files are looked for below the directories of `MLIP_JAX_PATH` (separated as in `PATH`) and
    compared with checksums; some are downloaded where they are not found. The last column says how.

    For example

        mlip-jax potentials

        mlip-jax potentials chgnet-0.3.0

        MLIP_JAX_PATH=~/published mlip-jax relax chgnet-0.3.0 start.extxyz -o relaxed.extxyz

        mlip-jax potentials chgnet-0.3.0 -o potentials/chgnet
    """
    from mlip_jax import config, storage
    from mlip_jax.interop import catalogue

    if name is None:
        if output is not None:
            raise typer.BadParameter("--output writes one potential; name it.")
        _list()
        return
    known = dataclasses.asdict(catalogue.entry(name))
    shown = {key: value for key, value in known.items() if value}
    typer.echo(config.format_yaml({"name": name, **shown, "where": _where(name)}), nl=False)
    if output is not None:
        storage.save(catalogue.load(name), output)


def head(
    potential: Annotated[Path, typer.Argument(help="Directory of a potential.")],
    name: Annotated[str, typer.Argument(metavar="HEAD", help="Source of the data of the head.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write it to.")],
) -> None:
    """Write one head of a potential with several, as a potential for every other command.

    For example

        mlip-jax head runs/two/potential r2scan -o potentials/r2scan
    """
    from mlip_jax import storage
    from mlip_jax.interop import catalogue

    storage.save(catalogue.load(potential, head=name), output)
    typer.echo(f"head {name}: {output}")


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from mlip_jax.interop import catalogue

    table = Table()
    for column in ("name", "format", "elements", "theory", "licence", "where"):
        justify = "right" if column == "elements" else "left"
        table.add_column(column, justify=justify, no_wrap=column == "name")
    for name, known in catalogue.entries().items():
        count = str(known.elements)
        table.add_row(name, known.format, count, known.theory, known.licence, _where(name))
    Console(markup=False, highlight=False).print(table)


def _where(name: str) -> str:
    """Where a potential is, or how one comes to it."""
    from mlip_jax.interop import catalogue

    place = catalogue.find(name)
    if place is not None:
        return str(place)
    return "to download" if catalogue.entry(name).address else "not found"
