"""Transforms of distances and the repulsion, against their formulas."""

import ase.data
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.nn import covalent

R = np.array([0.05, 0.4, 1.0, 1.9, 2.4, 4.9])
SUMS = np.full_like(R, 2.1)


def test_radii_are_those_of_ase():
    np.testing.assert_array_equal(elements.COVALENT_RADII, ase.data.covalent_radii[1:97])
    with pytest.raises(UserError, match="got Bk; known are those of H to Cm"):
        covalent.covalent_radii((14, 97))


def test_agnesi_is_one_over_one_plus_a_ratio():
    x = R / 1.05
    q, p, a = 0.9183, 4.5791, 1.0805
    expected = 1.0 / (1.0 + a * x**q / (1.0 + x ** (q - p)))
    found = jax.jit(lambda r, s: covalent.transform("agnesi", r, s))(R, SUMS)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_soft_turns_from_three_quarters_of_the_radii_to_the_distance():
    low, high = 0.75 * 2.1, 2.1 / 0.75
    step = 0.5 * (1.0 + np.tanh(4.0 / (high - low) * (R - 0.5 * (low + high))))
    found = jax.jit(lambda r, s: covalent.transform("soft", r, s))(R, SUMS)
    np.testing.assert_allclose(found, low + (R - low) * step, rtol=1e-13)
    np.testing.assert_allclose(found[-1], R[-1], rtol=1e-5)


def test_silicon_repels_as_two_nuclei_do():
    """Close by, screening leaves most of k Z Z / r; where radii touch nothing is left."""
    index = jnp.zeros(3, jnp.int32)
    r = jnp.array([0.001, 2.21, 2.23])
    found = jax.jit(lambda x: covalent.repulsion(x, index, index, (14,), 6))(r)
    assert 0.97 < float(found[0]) / (14.3996 * 14 * 14 / 0.001) < 1.0
    assert 0.0 < float(found[1]) < 1e-4
    assert float(found[2]) == 0.0


@pytest.mark.parametrize("kind", ["agnesi", "soft"])
def test_derivatives_are_finite_at_no_distance(kind):
    slope = jax.jit(jax.grad(lambda r: covalent.transform(kind, r, jnp.array([2.0]))[0]))
    assert np.isfinite(slope(jnp.zeros(1))).all()
    index = jnp.zeros(1, jnp.int32)
    energy = jax.jit(jax.grad(lambda r: covalent.repulsion(r, index, index, (14,), 5)[0]))
    assert np.isfinite(energy(jnp.zeros(1))).all()
