"""`properties elastic`, `equation-of-state` and `phonons`, and those of other files."""

import enum
from typing import Annotated

import typer

from mlip_jax.cli import barrier, conductivity, defects, process, results, trajectories, use
from mlip_jax.cli.at_rest import IndexOption, Relax, RelaxOption, StructureArgument, prepare
from mlip_jax.cli.use import PotentialArgument
from mlip_jax.config import UserError

app = typer.Typer(
    help="Properties of materials: a JSON file with units in its names, and a plot beside it.",
    no_args_is_help=True,
)


class Method(enum.StrEnum):
    """Where force constants come from."""

    derivatives = enum.auto()
    displacements = enum.auto()


def elastic(
    potential: PotentialArgument,
    structure: StructureArgument,
    output: results.OutputOption = None,
    index: IndexOption = -1,
    relax: RelaxOption = Relax.full,
) -> None:
    """Elastic constants with relaxed atoms, moduli of the polycrystal, and stability.

    Second derivatives of the energy, exact: nothing is deformed. Voigt order xx, yy, zz, yz, xz,
    xy in the axes of the structure; GPa.

    For example

        mlip-jax properties elastic runs/si/potential si.extxyz

        mlip-jax properties elastic chgnet-0.3.0 quartz.extxyz -o quartz.json --relax positions
    """
    loaded, chosen, target = prepare(potential, structure, output, index, relax, "elastic")
    from mlip_jax.properties import elastic as computing
    from mlip_jax.properties import report

    with use.progress("elastic constants"):
        found = computing.elastic_constants(loaded, chosen)
    values = report.elastic(found, chosen)
    averages = values["moduli"]
    _show("elastic constants [GPa]", values["voigt_order"], values["stiffness_GPa"])
    typer.echo(
        f"bulk {averages['bulk_GPa']:.2f}, shear {averages['shear_GPa']:.2f}, Young "
        f"{averages['young_GPa']:.2f} GPa, Poisson {averages['poisson']:.3f}, anisotropy "
        f"{averages['anisotropy']:.3f}; {'stable' if values['stable'] else 'NOT STABLE'}"
    )
    results.write(target, values, lambda plots: plots.elastic(found))


def equation_of_state(
    potential: PotentialArgument,
    structure: StructureArgument,
    output: results.OutputOption = None,
    index: IndexOption = -1,
    relax: RelaxOption = Relax.full,
    span: Annotated[float, typer.Option(help="Largest relative change of the volume.")] = 0.06,
    points: Annotated[int, typer.Option(help="Number of volumes.")] = 9,
) -> None:
    """Volume, bulk modulus and its derivative at rest, from energies of several volumes.

    The cell keeps its shape; atoms relax at each volume, but for `--relax none`. Birch-Murnaghan of
    third order, fitted by least squares.

    For example

        mlip-jax properties equation-of-state runs/si/potential si.extxyz

        mlip-jax properties equation-of-state runs/cu/potential cu.extxyz --span 0.1 --points 15
    """
    loaded, chosen, target = prepare(
        potential, structure, output, index, relax, "equation_of_state"
    )
    from mlip_jax.properties import equation_of_state as computing
    from mlip_jax.properties import report

    with use.progress("volumes"):
        found = computing.equation_of_state(loaded, chosen, span, points, relax != Relax.none)
    values = report.equation_of_state(found, chosen)
    typer.echo(
        f"volume {values['volume_A3_atom']:.4f} Å^3/atom, energy {values['energy_eV_atom']:.6f} "
        f"eV/atom, bulk modulus {values['bulk_modulus_GPa']:.2f} GPa, its derivative "
        f"{values['bulk_modulus_pressure_derivative']:.3f}; residual "
        f"{1e3 * values['residual_eV_atom']:.2g} meV/atom"
    )
    results.write(target, values, lambda plots: plots.equation_of_state(found, chosen.num_atoms))


def phonons(
    potential: PotentialArgument,
    structure: StructureArgument,
    output: results.OutputOption = None,
    index: IndexOption = -1,
    relax: RelaxOption = Relax.full,
    supercell: Annotated[
        tuple[int, int, int],
        typer.Option(help="Copies of the cell, for force constants: twice the cutoff is wide."),
    ] = (4, 4, 4),
    method: Annotated[
        Method, typer.Option(help="Exact second derivatives, or phonopy's displacements.")
    ] = Method.derivatives,
    displacement: Annotated[float, typer.Option(help="Å, of displacements.")] = 0.01,
    mesh: Annotated[float, typer.Option(help="Å; a larger one has more wave vectors.")] = 60.0,
    max_temperature: Annotated[float, typer.Option(help="K, of the thermodynamics.")] = 1000.0,
) -> None:
    """Phonon bands, density of states, and harmonic thermodynamics (needs phonopy).

    The primitive cell and the usual path through its zone are found. Polar crystals: no splitting
    of optical modes at Γ is added.

    For example

        mlip-jax properties phonons runs/si/potential si.extxyz --supercell 2 2 2

        mlip-jax properties phonons chgnet-0.3.0 nacl.extxyz --method displacements -o nacl.json
    """
    from mlip_jax.properties.lattice_dynamics import require_phonopy

    require_phonopy()
    if min(supercell) < 1 or displacement <= 0.0 or mesh <= 0.0 or max_temperature < 0.0:
        raise UserError(
            f"phonons: got supercell {supercell}, displacement {displacement:g} Å, mesh {mesh:g} Å "
            f"and temperatures to {max_temperature:g} K; expected positive numbers."
        )
    loaded, chosen, target = prepare(potential, structure, output, index, relax, "phonons")
    from mlip_jax.properties import lattice_dynamics as computing
    from mlip_jax.properties import report

    with use.progress("force constants") as progress:
        found = computing.lattice_dynamics(
            loaded,
            chosen,
            supercell,
            method="displacements" if method == Method.displacements else "derivatives",
            displacement=displacement,
            mesh=mesh,
            temperatures=[max_temperature * i / 100 for i in range(101)],
            progress=progress,
        )
    values = report.phonons(found)
    for name, corner in values["corners"].items():
        listed = " ".join(f"{f:.3f}" for f in corner["frequencies_THz"])
        typer.echo(f"{name:>3} {listed} THz")
    if not found.stable:
        typer.echo(f"NOT STABLE: the lowest frequency is {found.lowest:.3f} THz (imaginary)")
    results.write(target, values, lambda plots: plots.phonons(found))


for _command in (
    elastic,
    equation_of_state,
    phonons,
    *defects.COMMANDS,
    *barrier.COMMANDS,
    *trajectories.COMMANDS,
    *conductivity.COMMANDS,
):
    app.command()(process.guarded(_command))


def _show(title: str, names: list[str], matrix: list[list[float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in ("", *names):
        table.add_column(name, justify="right")
    for name, row in zip(names, matrix, strict=True):
        table.add_row(name, *(f"{0.0 if abs(value) < 0.005 else value:.2f}" for value in row))
    Console(markup=False).print(table)
