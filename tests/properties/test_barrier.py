"""A vacancy of argon that hops: its saddle point is known by symmetry."""

import dataclasses

import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.inference import predict
from mlip_jax.properties.barrier import barrier
from mlip_jax.properties.relaxed import relax_positions
from tests.simulate import argon


def moved(structure, atom, shift):
    positions = structure.positions.copy()
    positions[atom] += shift
    return dataclasses.replace(structure, positions=positions)


@pytest.mark.slow
@pytest.mark.parametrize("images", [2, 3])  # of two, none is at the saddle unless it climbs
def test_a_vacancy_hops_over_the_saddle_in_the_middle(images):
    whole = argon.fcc((3, 3, 3), argon.LATTICE)
    jump = whole.positions[0] - whole.positions[1]
    hole = dataclasses.replace(
        whole, atomic_numbers=whole.atomic_numbers[1:], positions=whole.positions[1:]
    )
    potential = argon.potential()
    found = barrier(potential, hole, moved(hole, 0, jump), num_images=images, max_force=2e-4)
    # Half way the hopping atom feels no force along its way, and relaxation keeps the symmetry.
    (saddle,) = relax_positions(potential, [moved(hole, 0, 0.5 * jump)])
    minimum, top = predict(potential, [found.images[0], saddle], precision="float64")
    assert found.forward == pytest.approx(top.energy - minimum.energy, rel=1e-3)
    assert found.forward > 0.02
    assert found.backward == pytest.approx(found.forward, abs=1e-6)
    assert np.all(np.diff(found.path) > 0.0)
    assert found.path[-1] > 0.9 * np.linalg.norm(jump)
    if images == 3:
        np.testing.assert_allclose(found.energies, found.energies[::-1], atol=1e-3)


def test_ends_that_do_not_belong_together_are_refused():
    first = argon.fcc()
    other = dataclasses.replace(first, atomic_numbers=np.full(first.num_atoms, 10))
    for last, message in (
        (other, "same atoms"),
        (dataclasses.replace(first, cell=1.1 * first.cell), "cells of the ends"),
    ):
        with pytest.raises(UserError, match=message):
            barrier(argon.potential(), first, last)
    with pytest.raises(UserError, match="0 images"):
        barrier(argon.potential(), first, first, num_images=0)
