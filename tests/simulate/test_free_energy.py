"""Differences of free energy against springs, whose partition function is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.simulate import free_energy

KT = 0.025


def springs(stiffness, count, seed):
    """Squares of the coordinate of springs at kT, `U = k x² / 2`."""
    return np.random.default_rng(seed).normal(0.0, np.sqrt(KT / stiffness), count) ** 2


@pytest.mark.parametrize("stiffness", [0.7, 1.0, 1.5])
def test_perturbed_springs_have_the_free_energy_of_other_springs(stiffness):
    """`F = kT/2 ln k`, and its slope `kT / 2 k`."""
    squares = jnp.asarray(springs(1.0, 200_000, 0))

    def difference(k):
        return free_energy.perturbation(0.5 * k * squares, 0.5 * squares, KT)

    value, slope = jax.value_and_grad(difference)(stiffness)
    assert float(value) == pytest.approx(0.5 * KT * np.log(stiffness), abs=0.005 * KT)
    assert float(slope) == pytest.approx(0.5 * KT / stiffness, rel=0.02)


def test_a_constant_shift_is_its_own_difference():
    energies = jnp.asarray(np.random.default_rng(0).normal(0.0, 0.1, 20))
    assert float(free_energy.perturbation(energies + 0.3, energies, KT)) == pytest.approx(0.3)
    assert free_energy.bennett(np.full(5, 0.3), np.full(9, 0.3), KT) == pytest.approx(0.3)


@pytest.mark.parametrize(("count", "others"), [(20_000, 20_000), (30_000, 5_000)])
def test_bennett_bridges_springs_that_perturbation_does_not(count, others):
    """From k = 1 to 8 in ten dimensions: few frames of one matter for the other."""
    soft = springs(1.0, 10 * count, 1).reshape(-1, 10).sum(axis=1)
    hard = springs(8.0, 10 * others, 2).reshape(-1, 10).sum(axis=1)
    exact = 10 * 0.5 * KT * np.log(8.0)
    found = free_energy.bennett(3.5 * soft, 3.5 * hard, KT)
    assert found == pytest.approx(exact, abs=0.1 * KT)
    # Eq. 12 of Bennett: the mean of f is the same on both sides, with the numbers of frames.
    shift = found + KT * np.log(others / count)
    sides = (
        np.sum(1.0 / (1.0 + np.exp((3.5 * soft - shift) / KT))),
        np.sum(1.0 / (1.0 + np.exp((shift - 3.5 * hard) / KT))),
    )
    assert sides[0] == pytest.approx(sides[1], rel=1e-6)


def test_energies_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="not finite"):
        free_energy.bennett(np.array([0.0, np.nan]), np.zeros(2), KT)
