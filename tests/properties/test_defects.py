"""Vacancies and surfaces of argon against sums over its pairs."""

import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.inference import predict
from mlip_jax.properties import defects
from tests.simulate import argon

LATTICE = argon.LATTICE  # near the minimum, or the slab would expand as a whole


def crystal():
    return argon.fcc((1, 1, 1), LATTICE)


def energy(structure):
    return predict(argon.potential(), [structure], precision="float64")[0].energy


def test_a_vacancy_breaks_the_bonds_of_its_atom():
    found = defects.vacancy(argon.potential(), crystal(), (3, 3, 3))
    # An atom of the crystal has half of its bonds' energy: leaving breaks all, joining makes half.
    bonds = 2.0 * energy(crystal()) / 4
    assert found.unrelaxed == pytest.approx(-bonds + bonds / 2.0, rel=1e-9)
    assert 0.9 * found.unrelaxed < found.relaxed < found.unrelaxed
    assert found.structure.num_atoms == 107
    assert found.distances.min() == pytest.approx(LATTICE / np.sqrt(2.0))
    near = found.distances < 4.0
    assert np.count_nonzero(near) == 12
    assert found.displacements[near].min() > 2.0 * np.median(found.displacements[~near])


def test_a_surface_breaks_the_bonds_across_it():
    found = defects.surface(argon.potential(), crystal(), (1, 0, 0), layers=4, vacuum=14.0)
    upper, lower = (argon.fcc((1, 1, 2), LATTICE) for _ in range(2))
    # Half crystals of two cells each, brought together from far away: the bonds across.
    far = np.array([0.0, 0.0, 40.0])
    cell = np.diag([LATTICE, LATTICE, 80.0])
    pbc = np.ones(3, bool)

    def pair(shift):
        positions = np.concatenate([lower.positions, upper.positions + shift])
        return Structure(np.full(16, 18), positions, cell, pbc)

    bonds = energy(pair(far)) - energy(pair(np.array([0.0, 0.0, 2.0 * LATTICE])))
    assert found.unrelaxed == pytest.approx(bonds / (2.0 * LATTICE**2), rel=1e-9)
    assert 0.9 * found.unrelaxed < found.relaxed < found.unrelaxed
    assert found.distances.min() == 0.0
    assert found.displacements[found.distances < 0.1].min() > 0.01


def test_impossible_defects_are_refused():
    potential = argon.potential()
    with pytest.raises(UserError, match="atom 4"):
        defects.vacancy(potential, crystal(), (2, 2, 2), atom=4)
    mixed = crystal()
    numbers = np.array([18, 18, 18, 10])
    mixed = Structure(numbers, mixed.positions, mixed.cell, mixed.pbc)
    with pytest.raises(UserError, match="chemical potential"):
        defects.vacancy(potential, mixed, (2, 2, 2))
    with pytest.raises(UserError, match="Miller"):
        defects.surface(potential, crystal(), (0, 0, 0))
    open_ = Structure(mixed.atomic_numbers, mixed.positions, mixed.cell, np.zeros(3, bool))
    for refused in (defects.vacancy, defects.surface):
        with pytest.raises(UserError, match="periodic in three"):
            refused(potential, open_, (1, 1, 1))
