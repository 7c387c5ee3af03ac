"""From the structures of a request to ASE's, for the workers whose environment has ASE."""

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator


def to_atoms(structure: dict) -> Atoms:
    """Atoms with positions [Å], cell [Å], and velocities [ASE's units] or labels where given."""
    atoms = Atoms(
        numbers=structure["numbers"],
        positions=structure["positions"],
        cell=structure["cell"],
        pbc=True,
    )
    if "velocities" in structure:
        atoms.set_velocities(np.asarray(structure["velocities"]))
    if "forces" in structure:
        labels = {"energy": structure["energy"], "forces": np.asarray(structure["forces"])}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def batches(structures: list, size: int) -> list[list]:
    """Consecutive batches of one size [structures]; an incomplete last batch is dropped."""
    stops = range(size, len(structures) + 1, size)
    return [structures[stop - size : stop] for stop in stops]


def velocity_verlet(atoms: Atoms, steps: int, timestep: float):
    """ASE's velocity Verlet as (run, reset), `timestep` in fs; each run starts from one state.

    The forces of the starting point belong to `reset`, so that a run is `steps` evaluations.
    """
    from ase import units
    from ase.md.verlet import VelocityVerlet

    positions, velocities = atoms.get_positions(), atoms.get_velocities()

    def reset() -> None:
        atoms.set_positions(positions)
        atoms.set_velocities(velocities)
        atoms.get_forces()

    def run() -> None:
        VelocityVerlet(atoms, timestep=timestep * units.fs).run(steps)

    return run, reset
