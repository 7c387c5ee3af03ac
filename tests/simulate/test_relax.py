"""FIRE finds the minimum, also through the skin of its list."""

import dataclasses

import numpy as np
import pytest

from mlip_jax.simulate import relax
from mlip_jax.simulate.settings import RelaxationConfig
from tests.simulate.silicon import diamond, potential


@pytest.mark.slow
@pytest.mark.parametrize("displacement", [0.05, 0.25])
def test_rattled_diamond_relaxes_to_diamond(displacement):
    structure = diamond(rattle=displacement, seed=3)
    result = relax.fire(potential(), structure, RelaxationConfig(max_force=1e-5))
    assert result.converged
    assert result.max_force < 1e-5
    assert len(result.energies) == len(result.max_forces) == result.steps + 1
    # Stillinger & Weber (1985): the crystal has -2 ε an atom at its lattice constant.
    assert result.energies[-1] / 64 + 100.0 == pytest.approx(-2.0 * 2.1683, abs=1e-4)
    moved = result.structure.positions - diamond().positions
    np.testing.assert_allclose(moved - moved.mean(axis=0), 0.0, atol=1e-4)
    assert result.structure.labels.forces is not None
    assert np.abs(result.structure.labels.forces).max() < 1e-5


def test_a_relaxed_structure_takes_no_step():
    result = relax.fire(potential(), diamond((1, 1, 1)), RelaxationConfig(max_force=0.01))
    assert result.converged
    assert result.steps == 0


@pytest.mark.slow
def test_too_few_steps_are_reported():
    structure = dataclasses.replace(diamond((1, 1, 1), rattle=0.3), name="rattled")
    result = relax.fire(potential(), structure, RelaxationConfig(max_force=1e-8, max_steps=3))
    assert not result.converged
    assert result.steps == 3
