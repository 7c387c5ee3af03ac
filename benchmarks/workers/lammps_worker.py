"""LAMMPS with `pair_style snap`, double precision: energies and forces, velocity Verlet."""

import tempfile
from pathlib import Path

import numpy as np
from ase.units import fs
from lammps import lammps
from protocol import Program, Task, serve, versions

SKIN = 0.5  # Å


def current(parameters: str) -> str:
    """A copy of a parameter file without keywords that LAMMPS no longer knows."""
    lines = Path(parameters).read_text().splitlines()
    kept = [line for line in lines if not line.startswith("diagonalstyle")]
    with tempfile.NamedTemporaryFile("w", suffix=".snapparam", delete=False) as copy:
        copy.write("\n".join(kept) + "\n")
    return copy.name


def start(case: dict, settings: dict) -> lammps:
    """A LAMMPS with the structure, its velocities and the potential."""
    entry = case["structures"][0]
    positions, cell = np.asarray(entry["positions"]), np.asarray(entry["cell"])
    lengths = np.diag(cell)
    program = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    coefficients, parameters = settings["files"][0], current(settings["files"][1])
    symbols = " ".join(settings["species"])
    commands = f"""
        units metal
        atom_style atomic
        atom_modify map array sort 0 0
        boundary p p p
        region box block 0 {lengths[0]} 0 {lengths[1]} 0 {lengths[2]}
        create_box 1 box
        mass 1 28.0855
        pair_style snap
        neighbor {SKIN} bin
        neigh_modify every 1 delay 0 check yes
        timestep {case["timestep_fs"] * 1e-3}
    """
    program.commands_string(commands)
    count = len(positions)
    program.create_atoms(
        count, list(range(1, count + 1)), [1] * count, np.mod(positions, lengths).ravel().tolist()
    )
    program.commands_string(f"pair_coeff * * {coefficients} {parameters} {symbols}\nfix 1 all nve")
    return program


def build(case: dict, settings: dict) -> Program:
    """Evaluation with its set-up of the list, and dynamics, of one structure."""
    program = start(case, settings)
    count = len(case["structures"][0]["numbers"])
    velocities = np.asarray(case["structures"][0]["velocities"]) * fs * 1e3  # Å/ps
    program.command("run 0 post no")
    first = np.array(program.numpy.extract_atom("x")[:count])

    def reset() -> None:
        program.numpy.extract_atom("x")[:count] = first
        program.numpy.extract_atom("v")[:count] = velocities

    def evaluate() -> Task:
        return Task(lambda: program.command("run 0 post no"), reset)

    def dynamics() -> Task:
        steps = case["md_steps"]
        return Task(lambda: program.command(f"run {steps} post no"), reset, units=steps)

    return Program(
        {"evaluate": {"run 0": evaluate}, "md": {"run": dynamics}},
        {"parameters": 0, "edges": case["pairs"], "versions": versions("lammps")},
    )


if __name__ == "__main__":
    serve(build)
