"""`potentials`: published ones by name; `head`: one of several; `add`: a term on top of one."""

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


def add(
    potential: Annotated[
        Path, typer.Argument(help="Directory of a potential, or a published name.")
    ],
    term: Annotated[str, typer.Argument(metavar="TERM", help="Model to add, such as d3 or zbl.")],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Fields of the term.")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write it to.")],
) -> None:
    """Add a term to a potential, as a new potential for every other command.

    Terms have no trained parameters: `d3` (Grimme's dispersion, with the parameters of a
    `functional`, `damping` bj or zero), `zbl` (repulsion of nuclei), or a pair potential with
    `trainable=false`. A term of any range may go on top of any potential; take one that the data
    of the potential lack. The tables of `d3` are read from an installed package
    (`pip install 'mlip_jax[dispersion]'`), once: the new potential has them.

    For example

        mlip-jax add runs/pbe/potential d3 functional=pbe -o potentials/pbe-d3

        mlip-jax add chgnet-0.3.0 d3 functional=pbe damping=zero cutoff=12 -o potentials/chgnet-d3

        mlip-jax add runs/si/potential zbl cutoff=1.8 inner=0.9 -o potentials/si-zbl

        mlip-jax md nvt.yaml potential=potentials/pbe-d3
    """
    from mlip_jax import config, models, storage, terms
    from mlip_jax.interop import catalogue

    section = config.apply_overrides({term: {}}, [f"{term}.{field}" for field in fields or ()])
    added = models.build_model(section, "add")
    storage.save(terms.add(catalogue.load(potential), added), output)
    typer.echo(f"{potential} with {term}: {output}")


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
