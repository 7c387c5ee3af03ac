"""The structures that every program computes, as plain lists that travel in a JSON request."""

from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

SILICON_LATTICE = 5.431  # Å
SPINEL_LATTICE, SPINEL_OXYGEN = 8.2, 0.262  # Å, and the free coordinate of oxygen
WATER_SPACING = 3.105  # Å between molecules on a simple cubic lattice: 1.0 g/cm³


def silicon(repeats: int, seed: int = 0, rattle: float = 0.05) -> Atoms:
    """Diamond silicon of `repeats`³ cubic cells (8 atoms each), rattled by `rattle` Å."""
    atoms = bulk("Si", "diamond", a=SILICON_LATTICE, cubic=True) * ((repeats,) * 3)
    atoms.rattle(rattle, seed=seed)
    return atoms


def water(per_edge: int, seed: int = 0) -> Atoms:
    """`per_edge`³ water molecules at the density of the liquid, turned at random."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=np.eye(3) * WATER_SPACING * per_edge, pbc=True)
    for site in np.ndindex((per_edge,) * 3):
        h2o = molecule("H2O")
        h2o.euler_rotate(*rng.uniform(0, 360, 3), center="COM")
        h2o.translate((np.array(site) + 0.5) * WATER_SPACING - h2o.get_center_of_mass())
        atoms += h2o
    return atoms


def oxide(seed: int = 0, rattle: float = 0.05) -> Atoms:
    """(Mg,Zn)(Al,Cr)₂O₄: 2 x 2 x 1 cubic cells of spinel (224 atoms), metals mixed at random."""
    sites = [(0.125,) * 3, (0.5,) * 3, (SPINEL_OXYGEN,) * 3]
    cell = [SPINEL_LATTICE] * 3 + [90.0] * 3
    atoms = crystal(["Mg", "Al", "O"], sites, spacegroup=227, setting=2, cellpar=cell) * (2, 2, 1)
    rng = np.random.default_rng(seed)
    for metal, other in (("Mg", "Zn"), ("Al", "Cr")):
        places = np.flatnonzero(np.array(atoms.get_chemical_symbols()) == metal)
        for place in rng.permutation(places)[: len(places) // 2]:
            atoms[int(place)].symbol = other
    atoms.rattle(rattle, seed=seed)
    return atoms


def training_set(path: Path | None, count: int, size: int = 64) -> tuple[list[Atoms], str]:
    """`count` labelled structures of `size` atoms and where they are from.

    Without a file: rattled silicon with the energy and forces of a Lennard-Jones crystal, since the
    labels do not change the cost of a step.
    """
    if path is not None:
        fitting = [atoms for atoms in read(path, ":") if len(atoms) == size][:count]
        if len(fitting) < count:
            raise ValueError(f"{path}: {len(fitting)} structures of {size} atoms, need {count}")
        return fitting, path.name
    structures = [silicon(2, seed) for seed in range(count)]
    for atoms in structures:
        atoms.calc = LennardJones(sigma=2.1, epsilon=0.5, rc=5.0, smooth=True)
    return structures, "synthetic"


def to_request(atoms: Atoms, temperature: float | None = None, labels: bool = False) -> dict:
    """A structure as lists: Å, eV, eV/Å, and velocities in ASE's units for `temperature` in K."""
    entry = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
    }
    if temperature is not None:
        moving = atoms.copy()
        rng = np.random.default_rng(0)
        MaxwellBoltzmannDistribution(moving, temperature_K=temperature, rng=rng)
        entry["velocities"] = moving.get_velocities().tolist()
    if labels:
        entry["energy"] = float(atoms.get_potential_energy())
        entry["forces"] = atoms.get_forces().tolist()
    return entry


def count_pairs(structures: list[Atoms], cutoff: float) -> int:
    """Directed pairs within `cutoff` Å, periodic images included, over all structures."""
    return sum(len(neighbor_list("i", atoms, cutoff)) for atoms in structures)


def least_neighbors(atoms: Atoms, cutoff: float) -> int:
    """Neighbours within `cutoff` Å of the atom that has fewest."""
    first = neighbor_list("i", atoms, cutoff)
    return int(np.bincount(first, minlength=len(atoms)).min())


def species(structures: list[Atoms]) -> tuple[list[int], list[str]]:
    """Atomic numbers in ascending order, and their symbols."""
    numbers = sorted({int(z) for atoms in structures for z in atoms.numbers})
    return numbers, Atoms(numbers=numbers).get_chemical_symbols()


def density(atoms: Atoms) -> float:
    """Mass density [g/cm³]."""
    return atoms.get_masses().sum() / units.kg * 1000 / (atoms.get_volume() * 1e-24)
