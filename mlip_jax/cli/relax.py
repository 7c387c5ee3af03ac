"""`relax`: the nearest minima of the energy, of one structure or of many."""

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip_jax.cli import process, use
from mlip_jax.cli.process import Precision
from mlip_jax.cli.use import PotentialArgument
from mlip_jax.config import UserError

if TYPE_CHECKING:
    from mlip_jax.data.structure import Structure
    from mlip_jax.potential import Potential
    from mlip_jax.simulate.batch_relax import BatchResult
    from mlip_jax.simulate.settings import BatchRelaxationConfig, RelaxationConfig

_LISTED = 20
"""Structures that failed are listed up to this number."""


class Cell(enum.StrEnum):
    """What may change of the cell."""

    fixed = enum.auto()
    full = enum.auto()
    hydrostatic = enum.auto()


def relax(
    potential: PotentialArgument,
    structures: Annotated[Path, typer.Argument(help="File with the structures to start from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the result.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Such as max_force=0.001. Repeatable."),
    ] = None,
    index: Annotated[int | None, typer.Option(help="Frame of the file; else the last.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All frames of the file, many at a time.")
    ] = False,
    cell: Annotated[
        Cell, typer.Option(help="Whether the cell moves: any strain, or the volume only.")
    ] = Cell.fixed,
    precision: Annotated[Precision, typer.Option(help="Arithmetic.")] = Precision.float64,
) -> None:
    """Relax positions with FIRE; with `--all` or a cell that moves, by L-BFGS.

    With `--all` or a cell that moves, structures are relaxed in batches: those that fail
    (collapsed, not finite, not converged in max_steps) are named with the reason, and all are
    written in the order of the file, as far as they came.

    For example

        mlip-jax relax runs/si/potential vacancy.extxyz -o relaxed.extxyz --set max_force=0.001

        mlip-jax relax chgnet-0.3.0 crystals.extxyz --all --cell full -o relaxed.extxyz
    """
    if every and index is not None:
        raise UserError(f"got --index {index} and --all; expected one of them. Leave one out.")
    process.prepare_jax(precision)
    from mlip_jax import config as configs
    from mlip_jax.data import formats
    from mlip_jax.interop import catalogue
    from mlip_jax.simulate import trajectory
    from mlip_jax.simulate.settings import BatchRelaxationConfig, RelaxationConfig

    batch = every or cell != Cell.fixed
    settings = {"precision": str(precision), **({"cell": str(cell)} if batch else {})}
    settings = configs.apply_overrides(settings, overrides or ())
    kind = BatchRelaxationConfig if batch else RelaxationConfig
    parsed = configs.parse(kind, settings, "relaxation")
    loaded = catalogue.load(potential)
    starts = (
        formats.read(structures)
        if every
        else [trajectory.read_frame(structures, -1 if index is None else index)[0]]
    )
    use.check_writable(output)
    formats.writer(output)
    if isinstance(parsed, BatchRelaxationConfig):
        _relax_many(loaded, starts, parsed, output)
    else:
        _relax_one(loaded, starts[0], parsed, output)


def _relax_one(
    potential: "Potential", start: "Structure", settings: "RelaxationConfig", output: Path
) -> None:
    from mlip_jax.data import formats
    from mlip_jax.simulate import relax as relaxation

    result = relaxation.fire(potential, start, settings)
    formats.write(output, [result.structure])
    typer.echo(
        f"{result.steps} steps, energy {result.energies[0]:.6f} -> {result.energies[-1]:.6f} eV, "
        f"largest force {result.max_force:.2g} eV/Å: {output}"
    )
    if not result.converged:
        raise UserError(
            f"not converged: the largest force is {result.max_force:.3g} eV/Å after {result.steps} "
            f"steps; expected {settings.max_force:g}. Go on from {output}, or set max_steps."
        )


def _relax_many(
    potential: "Potential",
    starts: Sequence["Structure"],
    settings: "BatchRelaxationConfig",
    output: Path,
) -> None:
    from mlip_jax.data import formats
    from mlip_jax.simulate.batch_relax import relax_many

    with use.progress("relaxing") as progress:
        results = relax_many(potential, starts, settings, progress)
    formats.write(output, [result.structure for result in results])
    converged = sum(result.converged for result in results)
    steps = sum(result.steps for result in results)
    typer.echo(f"{converged} of {len(results)} structures relaxed, {steps} steps: {output}")
    if any(result.status == "interrupted" for result in results):
        typer.echo("interrupted; structures stand where they were", err=True)
        raise typer.Exit(process.INTERRUPTED)
    if converged < len(results):
        raise UserError(_failures(results, output))


def _failures(results: Sequence["BatchResult"], output: Path) -> str:
    failed = [(i, result) for i, result in enumerate(results) if not result.converged]
    lines = [f"frame {i}, after {r.steps} steps: {r.status}" for i, r in failed[:_LISTED]]
    if len(failed) > _LISTED:
        lines.append(f"and {len(failed) - _LISTED} more")
    return "\n".join([f"not relaxed: {len(failed)} of the structures of {output}", *lines])
