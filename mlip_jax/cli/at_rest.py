"""The structure that a property is of: read, and brought to rest with the potential in question."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip_jax.cli import process, results, use
from mlip_jax.cli.process import Precision

if TYPE_CHECKING:
    from mlip_jax.data.structure import Structure
    from mlip_jax.potential import Potential
    from mlip_jax.properties.relaxed import Cell


class Relax(enum.StrEnum):
    """What is relaxed before a property is computed."""

    full = enum.auto()
    hydrostatic = enum.auto()
    positions = enum.auto()
    none = enum.auto()


_CELLS: "dict[Relax, Cell]" = {
    Relax.full: "full",
    Relax.hydrostatic: "hydrostatic",
    Relax.positions: "fixed",
}

StructureArgument = Annotated[Path, typer.Argument(help="File with the structure.")]
IndexOption = Annotated[int, typer.Option(help="Frame of the file.")]
RelaxOption = Annotated[
    Relax,
    typer.Option(
        help="What is relaxed first: cell and positions (full), volume and positions "
        "(hydrostatic), positions, or nothing."
    ),
]


def prepare(
    potential: Path, file: Path, output: Path | None, index: int, relax: Relax, name: str
) -> "tuple[Potential, Structure, Path]":
    """The potential, the structure at rest, and the file to write, which must be writable."""
    process.prepare_jax(Precision.float64)
    from mlip_jax.interop import catalogue
    from mlip_jax.properties import relaxed
    from mlip_jax.simulate import trajectory

    target = results.target(output, name)
    loaded = catalogue.load(potential)
    chosen, _ = trajectory.read_frame(file, index)
    if relax != Relax.none:
        with use.progress("relaxing") as progress:
            (chosen,) = relaxed.relax(loaded, [chosen], _CELLS[relax], progress)
    return loaded, chosen, target
