"""`properties vacancy` and `surface`."""

from typing import Annotated

import typer

from mlip_jax.cli import results, use
from mlip_jax.cli.at_rest import IndexOption, Relax, RelaxOption, StructureArgument, prepare
from mlip_jax.cli.use import PotentialArgument


def vacancy(
    potential: PotentialArgument,
    structure: StructureArgument,
    output: results.OutputOption = None,
    index: IndexOption = -1,
    relax: RelaxOption = Relax.full,
    supercell: Annotated[
        tuple[int, int, int], typer.Option(help="Copies of the cell: images see each other.")
    ] = (3, 3, 3),
    atom: Annotated[int, typer.Option(help="Of the cell, that is taken away.")] = 0,
    chemical_potential: Annotated[
        float | None,
        typer.Option(help="eV, of the atom that leaves; needed for compounds only."),
    ] = None,
) -> None:
    """Formation energy of a vacancy, before and after atoms relax in the cell of the crystal.

    For example

        mlip-jax properties vacancy runs/cu/potential cu.extxyz --supercell 4 4 4

        mlip-jax properties vacancy chgnet-0.3.0 nacl.extxyz --atom 0 --chemical-potential -1.3
    """
    loaded, chosen, target = prepare(potential, structure, output, index, relax, "vacancy")
    from mlip_jax.properties import defects as computing
    from mlip_jax.properties import report

    with use.progress("vacancy"):
        found = computing.vacancy(loaded, chosen, supercell, atom, chemical_potential)
    values = report.vacancy(found, atom, supercell)
    typer.echo(
        f"{values['energy_eV']:.4f} eV ({values['unrelaxed_energy_eV']:.4f} before relaxation); "
        f"atoms move by up to {found.displacements.max():.3f} Å"
    )
    where = "distance from the vacancy"
    results.write(target, values, lambda plots: plots.defect(found, where))


def surface(
    potential: PotentialArgument,
    structure: StructureArgument,
    miller: Annotated[tuple[int, int, int], typer.Option(help="Indices in the file's cell.")],
    output: results.OutputOption = None,
    index: IndexOption = -1,
    relax: RelaxOption = Relax.full,
    layers: Annotated[int, typer.Option(help="Repetitions of the cell across the slab.")] = 6,
    vacuum: Annotated[float, typer.Option(help="Å between the slab and its image.")] = 15.0,
) -> None:
    """Energy of a surface, before and after atoms relax; give the conventional cell.

    For example

        mlip-jax properties surface runs/cu/potential cu.extxyz --miller 1 1 1

        mlip-jax properties surface runs/si/potential si.extxyz --miller 1 0 0 --layers 10
    """
    loaded, chosen, target = prepare(potential, structure, output, index, relax, "surface")
    from mlip_jax.properties import defects as computing
    from mlip_jax.properties import report

    with use.progress("surface"):
        found = computing.surface(loaded, chosen, miller, layers, vacuum)
    values = report.surface(found, miller, layers)
    typer.echo(
        f"{values['energy_J_m2']:.4f} J/m² ({values['unrelaxed_energy_J_m2']:.4f} before "
        f"relaxation), {found.structure.num_atoms} atoms in the slab"
    )
    results.write(target, values, lambda plots: plots.defect(found, "depth below the surface"))


COMMANDS = (vacancy, surface)
"""In the order of the help."""
