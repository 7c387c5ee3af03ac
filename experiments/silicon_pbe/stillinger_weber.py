"""Stillinger-Weber silicon and Langevin dynamics with it: a cheap source of thermal frames.

The potential only proposes geometries; every label of the data set comes from DFT.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list

# Stillinger and Weber (1985), table I, in eV and Å.
EPSILON, SIGMA = 2.1683, 2.0951
A, B, CUTOFF, LAMBDA, GAMMA = 7.049556277, 0.6022245584, 1.8, 21.0, 1.2


def energy_and_forces(atoms: Atoms) -> tuple[float, np.ndarray]:
    """Energy [eV] and forces [eV/Å] of silicon; Stillinger and Weber (1985), eqs. 2.3 to 2.6.

    Args:
        atoms: Silicon atoms, any periodicity and cell size.
    """
    i, j, vectors, r = neighbor_list("ijDd", atoms, CUTOFF * SIGMA * (1 - 1e-9))
    x = r / SIGMA
    tail = np.exp(1 / (x - CUTOFF))
    pair = 0.5 * A * EPSILON * (B / x**4 - 1) * tail  # half: each pair appears twice
    slope = -0.5 * A * EPSILON * 4 * B / x**5 * tail - pair / (x - CUTOFF) ** 2
    energy = pair.sum()
    unit = vectors / r[:, None]
    gradient = slope[:, None] / SIGMA * unit  # dE / d vectors, row per directed pair

    g = np.exp(GAMMA / (x - CUTOFF))
    dg = -GAMMA / (x - CUTOFF) ** 2 / SIGMA * g
    for atom in range(len(atoms)):
        edges = np.flatnonzero(i == atom)
        e, d = unit[edges], r[edges]
        cosine = e @ e.T
        angle = cosine + 1 / 3
        np.fill_diagonal(angle, 0.0)
        both = LAMBDA * EPSILON * np.outer(g[edges], g[edges])
        energy += 0.5 * (angle**2 * both).sum()
        stretch = (LAMBDA * EPSILON * angle**2 * np.outer(dg[edges], g[edges])).sum(1)
        bend = 2 * angle * both
        turn = (bend @ e - (bend * cosine).sum(1)[:, None] * e) / d[:, None]
        gradient[edges] += stretch[:, None] * e + turn

    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, i, gradient)
    np.add.at(forces, j, -gradient)
    return float(energy), forces


class StillingerWeber(Calculator):
    """ASE calculator around `energy_and_forces`."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (the name is ASE's)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Compute energy and forces together."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = energy_and_forces(self.atoms)
        self.results = {"energy": energy, "forces": forces}


def thermal_frames(
    atoms: Atoms, temperature: float, count: int, rng: np.random.Generator, melt: float = 0.0
) -> list[Atoms]:
    """Frames of a Langevin run at constant volume, 0.15 ps apart after 0.35 ps.

    Args:
        atoms: Start; left unchanged.
        temperature: In K.
        count: Number of frames.
        rng: Source of velocities and noise.
        melt: Temperature [K] of a preceding run of 0.5 ps; none where 0.
    """
    atoms = atoms.copy()
    atoms.calc = StillingerWeber()
    MaxwellBoltzmannDistribution(atoms, temperature_K=max(temperature, melt), rng=rng)
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng
    )
    if melt:
        dynamics.set_temperature(temperature_K=melt)
        dynamics.run(250)
        dynamics.set_temperature(temperature_K=temperature)
    dynamics.run(100)
    frames = []
    for _ in range(count):
        dynamics.run(75)
        frames.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    return frames


def steepest_descent(atoms: Atoms, steps: int, largest: float = 0.1) -> Atoms:
    """Take the worst overlaps out of a random structure.

    Args:
        atoms: Start; left unchanged.
        steps: Number of steps; few, so that the frames stay diverse.
        largest: Largest displacement of an atom per step, in Å.
    """
    atoms = atoms.copy()
    for _ in range(steps):
        _, forces = energy_and_forces(atoms)
        scale = min(0.02, largest / np.linalg.norm(forces, axis=1).max())
        atoms.positions += scale * forces
    return atoms
