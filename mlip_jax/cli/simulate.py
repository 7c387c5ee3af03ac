"""`md`: molecular dynamics."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip_jax.cli import process, sections
from mlip_jax.cli.process import Precision
from mlip_jax.config import UserError

if TYPE_CHECKING:
    from mlip_jax.simulate.engine import SimulationResult


def md(
    config: Annotated[Path, typer.Argument(help="YAML config.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as simulation.steps=1000.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory; else runs/NAME_OF_CONFIG.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier files.")] = False,
    precision: Annotated[
        Precision | None, typer.Option(help="Goes before simulation.precision.")
    ] = None,
) -> None:
    """Run molecular dynamics: NVE, NVT, or NPT with a cell that moves.

    `ensemble.kind` is nve, langevin, csvr or nose_hoover; `ensemble.barostat` (with langevin or
    csvr) lets the cell move: isotropic, axes or flexible. Temperature and pressure are numbers or
    schedules. `simulation` has fixed_atoms, fixed_elements, drift_interval and reflecting walls.

    Writes the trajectory, `thermo.jsonl`, `thermo.png` and a restart file. Ctrl-C leaves all of
    them complete. The config has the sections `potential` (a path, or a published name),
    `structure` (`file`, `index`), `ensemble` and `simulation`.

    For example

        mlip-jax md nvt.yaml

        mlip-jax md nvt.yaml ensemble.temperature=600 simulation.duration=5000 -o runs/hot

        mlip-jax md npt.yaml ensemble.barostat.pressure=2

        mlip-jax md nvt.yaml simulation.duration=10000 --resume
    """
    changes = [*(overrides or ()), *([f"simulation.precision={precision}"] if precision else [])]
    mapping = sections.load(config, changes, ("potential", "head", *sections.MD))
    parsed = {name: sections.parse(name, mapping.get(name)) for name in sections.MD}
    simulation = parsed["simulation"]
    process.prepare_jax(simulation.precision)
    from mlip_jax import config as configs
    from mlip_jax.interop import catalogue
    from mlip_jax.simulate import engine, trajectory

    if not isinstance(mapping.get("potential"), str):
        raise UserError(f"{config}: potential: missing; expected its directory or name.")
    head = configs.validate(str | None, mapping.get("head"), f"{config}: head")
    potential = catalogue.load(mapping["potential"], config.parent, head)
    start = sections.find(parsed["structure"].file, config.parent, "structure.file")
    structure, momenta = trajectory.read_frame(start, parsed["structure"].index)
    output = Path("runs") / config.stem if output is None else output
    restart = _restart_file(output, resume, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    named = {"potential": mapping["potential"]} | ({"head": head} if head else {})
    configs.dump_yaml({**named, **parsed}, output / "config.yaml")
    result = engine.run(
        potential,
        structure,
        parsed["ensemble"],
        simulation,
        output,
        momenta=momenta,
        resume=restart,
        show_progress=True,
    )
    typer.echo(
        f"{result.steps} steps of {result.structure.num_atoms} atoms, {_speed(result)}: {output}"
    )
    if result.stop_reason:
        raise UserError(result.stop_reason)
    if result.interrupted is not None:
        raise typer.Exit(128 + result.interrupted)


def _speed(result: "SimulationResult") -> str:
    """Of the steady state, where the run was long enough to reach it."""
    if math.isnan(result.nanoseconds_per_day):
        return f"too few to tell the speed from the {result.compile_seconds:.0f} s of compiling"
    return (
        f"{result.microseconds_per_atom_step:.1f} µs per atom and step, "
        f"{result.nanoseconds_per_day:.2f} ns a day"
    )


def _restart_file(output: Path, resume: bool, overwrite: bool) -> Path | None:
    """The restart file to go on from; refuses to write over an earlier simulation unasked."""
    if resume:
        return output / "restart.npz"
    if (output / "thermo.jsonl").exists() and not overwrite:
        raise UserError(
            f"{output}: holds a simulation. Go on with --resume, write over it with --overwrite, "
            "or choose another --output."
        )
    return None
