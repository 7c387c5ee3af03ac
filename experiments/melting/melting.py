"""The melting temperature of a potential, by coexistence of crystal and melt at constant energy.

    python experiments/melting/melting.py POTENTIAL crystal.extxyz 1700 -o runs/melting

Half of a long supercell is molten while the other half is held; both are let go, and the whole is
left to itself (NVE). Where it is too hot some of the crystal melts, which costs heat; where it is
too cold some of the melt freezes, which gives heat: the temperature becomes that of coexistence at
the pressure that there is. J. R. Morris et al., Phys. Rev. B 49, 3109 (1994).

Writes `melting.json`, `melting.png` and the files of each stage. The guess of the temperature has
to be near enough that neither phase vanishes; the run says so where one does.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import mlip_jax as mj
from mlip_jax import data
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.simulate import engine, thermo
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig, SimulationConfig
from mlip_jax.simulate.system import replicate

BLOCKS = 5
ORDERED = 0.5
"""Share of the crystal's order, midway to none, above which a slab counts as crystal."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How coexistence is prepared and watched.

    Attributes:
        temperature: a guess of the melting temperature, K.
        pressure: at which both phases settle, GPa.
        copies: of the cubic cell, longest along z.
        timestep: fs.
        prepare: steps in which the crystal finds its volume, and half of it melts; a quarter of
            them cools and settles: as long as phases at a fixed temperature grow little.
        steps: at constant energy; the second half is averaged.
        melt: temperature at which one half is molten, in multiples of the guess.
        compressibility: a guess, 1/GPa.
    """

    temperature: float
    pressure: float = 0.0
    copies: tuple[int, int, int] = (4, 4, 8)
    timestep: float = 2.0
    prepare: int = 2000
    steps: int = 10000
    melt: float = 3.0
    compressibility: float = 0.02


def coexistence(
    potential: Potential, cell: Structure, settings: Settings, output: Path
) -> dict[str, Any]:
    """Simulates coexistence, and writes what came of it.

    Args:
        potential: the potential.
        cell: a cubic cell of the crystal.
        settings: see there.
        output: directory of the files.

    Returns:
        Temperature [K] and pressure [GPa] with standard errors, and the crystal's share of slabs.

    Raises:
        UserError: where a phase has vanished.
    """
    kelvin, ideal = settings.temperature, replicate(cell, settings.copies)
    barostat = BarostatConfig(settings.pressure, compressibility=settings.compressibility)

    def run(stage: str, ensemble: EnsembleConfig, structure: Structure, momenta=None, **keys):
        print(f"{stage}: {keys.get('steps', settings.prepare)} steps", flush=True)
        keys = {"steps": settings.prepare, "trajectory_interval": 200} | keys
        simulation = SimulationConfig(timestep=settings.timestep, **keys)
        result = engine.run(
            potential,
            structure,
            ensemble,
            simulation,
            output / stage,
            momenta=momenta,
            show_progress=True,
        )
        if result.stop_reason:
            raise UserError(f"{stage}: {result.stop_reason}")
        return result

    warm = EnsembleConfig("csvr", kelvin, barostat=barostat)
    grown = run("1_crystal", warm, ideal, initial_temperature=2 * kelvin).structure
    volumes = thermo.read(output / "1_crystal" / "thermo.jsonl")["volume_A3"]
    mean = np.mean(volumes[len(volumes) // 2 :])
    start = scaled(grown, np.cbrt(mean / abs(np.linalg.det(grown.cell))))
    held = np.flatnonzero(ideal.positions[:, 2] < 0.5 * ideal.cell[2, 2] - 1e-3)
    still: dict[str, Any] = {"fixed_atoms": tuple(held.tolist())}
    hot = EnsembleConfig("langevin", settings.melt * kelvin, friction=0.005)
    molten = run("2_melt", hot, start, **still)
    cold = dataclasses.replace(hot, temperature=kelvin)
    short = {"steps": max(1, settings.prepare // 4)}
    still |= short
    molten = run("3_cool", cold, molten.structure, molten.momenta, velocities="structure", **still)
    free = dataclasses.replace(warm, barostat=dataclasses.replace(barostat, cell="axes"))
    settled = run("4_settle", free, molten.structure, **short)
    alone = EnsembleConfig("nve", kelvin)
    run(
        "5_coexist",
        alone,
        settled.structure,
        settled.momenta,
        velocities="structure",
        steps=settings.steps,
    )
    return conclude(output, settings, len(ideal.atomic_numbers))


def scaled(structure: Structure, factor: float) -> Structure:
    """The structure, larger by a factor."""
    return dataclasses.replace(
        structure, positions=structure.positions * factor, cell=structure.cell * factor
    )


def order(frame: Structure, copies: tuple[int, int, int]) -> np.ndarray:
    """How crystalline slabs of one cell's height are: |<exp(i G r)>|, G = 2π/a (2, 2, 0)."""
    fractions = frame.positions @ np.linalg.inv(frame.cell)
    phases = np.exp(4j * np.pi * (copies[0] * fractions[:, 0] + copies[1] * fractions[:, 1]))
    slab = np.floor(fractions[:, 2] * copies[2]).astype(int) % copies[2]
    return np.array([np.abs(np.mean(phases[slab == k])) for k in range(copies[2])])


def conclude(output: Path, settings: Settings, atoms: int) -> dict[str, Any]:
    """Averages of the last stage; writes `melting.json` and `melting.png`."""
    columns = thermo.read(output / "5_coexist" / "thermo.jsonl")
    frames = data.formats.read(output / "5_coexist" / "trajectory.extxyz")
    crystal = data.formats.read(output / "1_crystal" / "trajectory.extxyz")
    whole = np.mean([order(frame, settings.copies) for frame in crystal[len(crystal) // 2 :]])
    shares = [np.mean(order(frame, settings.copies) > ORDERED * whole) for frame in frames]
    late = slice(len(columns["temperature_K"]) // 2, None)
    record: dict[str, Any] = {
        "atoms": atoms,
        "settings": dataclasses.asdict(settings),
        "crystal_at_the_start": float(shares[0]),
        "crystal_at_the_end": float(np.mean(shares[-max(1, len(shares) // 5) :])),
        "energy_drift_meV_per_atom": 1e3 * float(np.ptp(columns["conserved_eV"][late])) / atoms,
    }
    for name in ("temperature_K", "pressure_GPa"):
        blocks = np.array([np.mean(b) for b in np.array_split(columns[name][late], BLOCKS)])
        record[name] = float(np.mean(blocks))
        record[f"{name}_error"] = float(np.std(blocks, ddof=1) / np.sqrt(BLOCKS))
    (output / "melting.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    figure(columns, frames, shares, settings, output / "melting.png")
    if not 0.1 < record["crystal_at_the_end"] < 0.9:
        raise UserError(
            f"{output}: got a crystal in {100 * record['crystal_at_the_end']:.0f} % of the slabs "
            f"at the end, at {record['temperature_K']:.0f} K; expected both phases. Guess a "
            f"{'lower' if record['crystal_at_the_end'] < 0.5 else 'higher'} temperature."
        )
    return record


def figure(columns, frames, shares, settings: Settings, path: Path) -> None:
    """Temperature, pressure and the crystal's share against time."""
    plot, panels = plt.subplots(1, 3, figsize=(11.0, 3.2), layout="constrained")
    time = 1e-3 * columns["time_fs"]
    for panel, name, label in (
        (panels[0], "temperature_K", "temperature [K]"),
        (panels[1], "pressure_GPa", "pressure [GPa]"),
    ):
        panel.plot(time, columns[name], lw=0.6)
        half = len(time) // 2
        panel.axhline(np.mean(columns[name][half:]), color="C1", xmin=0.5, label="mean")
        panel.set(xlabel="time [ps]", ylabel=label)
        panel.legend(frameon=False)
    late = [order(frame, settings.copies) for frame in frames[len(frames) // 2 :]]
    slabs = settings.copies[2]
    panels[2].bar((np.arange(slabs) + 0.5) / slabs, np.mean(late, axis=0), width=0.9 / slabs)
    panels[2].set(xlabel="height in the cell", ylabel="order, second half")
    panels[2].set_title(f"crystal: {shares[0]:.2f} → {shares[-1]:.2f} of the slabs", fontsize=9)
    plot.savefig(path, dpi=120)
    plt.close(plot)


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential", help="directory, or the name of a published potential")
    parser.add_argument("crystal", type=Path, help="a cubic cell of it")
    parser.add_argument("temperature", type=float, help="guess [K]")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/melting"))
    parser.add_argument("--pressure", type=float, default=0.0, help="GPa")
    parser.add_argument("--copies", type=int, nargs=3, default=(4, 4, 8))
    parser.add_argument("--timestep", type=float, default=2.0, help="fs")
    parser.add_argument("--prepare", type=int, default=2000, help="steps of each stage before")
    parser.add_argument("--steps", type=int, default=10000, help="at constant energy")
    parser.add_argument("--melt", type=float, default=3.0, help="heat of one half, in guesses")
    parser.add_argument("--compressibility", type=float, default=0.02, help="a guess, 1/GPa")
    arguments = vars(parser.parse_args())
    output = arguments.pop("output")
    arguments["copies"] = tuple(arguments["copies"])
    try:
        potential = mj.load(arguments.pop("potential"))
        cell = mj.read(arguments.pop("crystal"))[0]
        found = coexistence(potential, cell, Settings(**arguments), output)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(
        f"melts at {found['temperature_K']:.1f} ± {found['temperature_K_error']:.1f} K, "
        f"{found['pressure_GPa']:.3f} ± {found['pressure_GPa_error']:.3f} GPa"
    )


if __name__ == "__main__":
    main()
