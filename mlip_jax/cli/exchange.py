"""`import` and `export`: potentials of other programs become ours, and ours theirs."""

from pathlib import Path
from typing import Annotated

import typer

from mlip_jax.cli import process
from mlip_jax.cli.process import Precision


def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="Such as snap.")],
    files: Annotated[list[Path], typer.Argument(help="Files of the published potential.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the potential.")],
    species: Annotated[
        str | None, typer.Option(help="Elements such as Mo,W, where the files only number them.")
    ] = None,
    length: Annotated[
        str | None, typer.Option(help="Unit of the files, where they do not say: bohr, angstrom.")
    ] = None,
    energy: Annotated[str | None, typer.Option(help="Likewise: hartree, eV.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Which one of a model with several heads.")
    ] = None,
) -> None:
    """Import a published potential; its numbers stay those of the program it was made for.

    Formats: `ace` (LAMMPS and pacemaker: `.yace`); `gap` (QUIP: the `.xml` and its `.sparseX.*`);
    `allegro`, `chgnet`, `mace`, `nequip`, `sevennet` (the config as `.json` and the state dict as
    `.safetensors`; of a `mace` with several heads one, by `--head`); `mtp` (MLIP: one `.mtp` or
    `.almtp`, with `--species` in the order of the file); `n2p2` (and RuNNer: `input.nn`,
    `scaling.data`, `weights.*.data`, and with charge equilibration `weightse.*.data` and
    `hardness.*.data`; bohr and hartree where nothing else is said); `nequix` (one `.nqx`); `snap`
    (LAMMPS: `.snapcoeff`, `.snapparam` and, for a hybrid with ZBL, `.snap`); `tensornet`, `m3gnet`
    (matgl 2 to 4.0: `model.json`, and the arrays of `state.pt` as `.safetensors`).

    For example

        mlip-jax import snap Ta06A.snapcoeff Ta06A.snapparam Ta06A.snap -o potentials/ta

        mlip-jax import nequix nequix-mp-1.nqx -o potentials/nequix

        mlip-jax import mtp fitted.mtp --species Nb,Mo,Ta,W -o potentials/nbmotaw

        mlip-jax evaluate potentials/ta structures.extxyz
    """
    process.prepare_jax(Precision.float64)
    from mlip_jax import elements, storage
    from mlip_jax.interop import weights

    names = None if species is None else [name.strip() for name in species.split(",")]
    facts = {"species": names, "length": length, "energy": energy, "head": head}
    given = {name: fact for name, fact in facts.items() if fact is not None}
    potential = weights.read(format_name, files, **given)
    storage.save(potential, output)
    typer.echo(
        f"{format_name} potential for {', '.join(elements.symbols(sorted(potential.species)))}: "
        f"{output}"
    )


def export(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="ace or snap.")],
    potential: Annotated[
        Path, typer.Argument(help="Directory of a potential, or a published name.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Path of the files, without their suffix.")
    ],
) -> None:
    """Write a potential for another program, and print the commands that it needs there.

    Formats: `ace` (LAMMPS's `pair_style pace`, and pacemaker: `.yace`, and the commands, `.pace`),
    of `ace` models, linear or of several densities, and `pace`; `snap` (LAMMPS: `.snapcoeff`,
    `.snapparam`, and the commands, `.snap`), of `snap` models, linear or quadratic, alone or in a
    sum with `zbl`. Energies include the reference energies of the potential.

    For example

        mlip-jax export ace potentials/si -o Si.yace

        mlip-jax export snap potentials/cu -o Cu
    """
    process.prepare_jax(Precision.float64)
    from mlip_jax.interop import catalogue, weights

    files = weights.write(format_name, catalogue.load(potential), output)
    typer.echo(f"{format_name} potential: {', '.join(str(path) for path in files)}\n")
    typer.echo(files[-1].read_text(encoding="utf-8"), nl=False)
