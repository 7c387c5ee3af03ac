"""Small labelled structures with known physics, for the tests of `mlip_jax.data`."""

import dataclasses

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.formats.ase_files import from_atoms
from mlip_jax.data.structure import Structure, StructureLabels


def copper(count: int, *, rattle: float = 0.08, strain: float = 0.0, seed: int = 0):
    """Cells of 8 Cu atoms (EMT: energy, forces, stress), rattled and strained at random."""
    generator = np.random.default_rng(seed)
    structures = []
    for number in range(count):
        atoms = bulk("Cu", cubic=False).repeat((2, 2, 2))
        deformation = strain * generator.uniform(-1, 1, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (deformation + deformation.T)), True)
        atoms.positions += rattle * generator.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        atoms.get_stress()
        structure = from_atoms(atoms, LabelKeys(charges=None, magmoms=None), name="cu")
        structures.append(dataclasses.replace(structure, name=f"cu:{number}"))
    return structures


def everything(seed: int = 0) -> list[Structure]:
    """A crystal and a molecule with every field set in one or the other."""
    generator = np.random.default_rng(seed)
    stress = generator.normal(size=(3, 3))
    crystal = Structure(
        atomic_numbers=np.array([14, 8, 1]),
        positions=generator.normal(size=(3, 3)),
        cell=6.0 * np.eye(3) + generator.normal(size=(3, 3)) * 0.3,
        pbc=np.array([True, True, False]),
        labels=StructureLabels(
            energy=-1.0 / 3.0,
            forces=generator.normal(size=(3, 3)),
            stress=stress + stress.T,
            charges=generator.normal(size=3),
            magmoms=generator.normal(size=3),
        ),
        total_charge=-1.0,
        spins=generator.normal(size=(3, 3)),
        config_type='a "quoted" type',
        source="pbe",
        group="g 1",
        weight=2.5,
    )
    molecule = Structure(
        atomic_numbers=np.array([1, 1]),
        positions=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
        labels=StructureLabels(energy=-31.7),
    )
    return [crystal, molecule]
