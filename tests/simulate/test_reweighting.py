"""Weights of frames against closed forms, and averages of a sampled system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.simulate import differentiable, reweighting
from mlip_jax.simulate.settings import EnsembleConfig
from tests.simulate import argon

KT = 0.025


def springs(count=200_000, stiffness=1.0):
    """Coordinates of springs at kT, and `stiffness -> energies`."""
    width = np.sqrt(KT / stiffness)
    x = jnp.asarray(np.random.default_rng(0).normal(0.0, width, count))
    return x, lambda k: 0.5 * k * x**2


def mean_square(stiffness, x, energies, sampled):
    weights = reweighting.weights(energies(stiffness), sampled, KT)
    return reweighting.average(weights, x**2), reweighting.effective_size(weights)


def test_reweighted_springs_have_the_width_of_other_springs():
    x, energies = springs()
    for stiffness in (0.8, 1.0, 1.3):
        value, size = mean_square(stiffness, x, energies, energies(1.0))
        # A variance of normal numbers has the relative error sqrt(2 / n): 4 standard errors.
        assert float(value) == pytest.approx(KT / stiffness, rel=4 * np.sqrt(2.0 / float(size)))
    (value, size), slope = jax.value_and_grad(mean_square, has_aux=True)(
        1.0, x, energies, energies(1.0)
    )
    assert float(size) == pytest.approx(len(x), rel=1e-9)
    # d(kT/k)/dk, from the fourth moment, of relative error sqrt(24 / n).
    assert float(slope) == pytest.approx(-KT, rel=0.05)


def test_the_slope_is_the_fluctuation_formula():
    """`d<A> = <dA> - (<A dU> - <A> <dU>) / kT` over the same frames."""
    x, energies = springs(count=50)
    slope = jax.grad(lambda k: mean_square(k, x, energies, energies(1.0))[0])(1.0)
    a, du = x**2, 0.5 * x**2
    covariance = jnp.mean(a * du) - jnp.mean(a) * jnp.mean(du)
    assert float(slope) == pytest.approx(float(-covariance / KT), rel=1e-10)


def test_the_effective_size_goes_from_all_to_one():
    even = jnp.full(8, 0.125)
    assert float(reweighting.effective_size(even)) == pytest.approx(8.0)
    assert float(reweighting.effective_size(jnp.eye(8)[2])) == pytest.approx(1.0)
    half = jnp.array([0.5, 0.5, 0.0, 0.0])
    assert float(reweighting.effective_size(half)) == pytest.approx(2.0)
    assert np.all(np.isfinite(jax.grad(reweighting.effective_size)(half)))
    far = reweighting.weights(jnp.array([0.0, 1e6]), jnp.zeros(2), KT)
    np.testing.assert_allclose(far, [1.0, 0.0])


@pytest.mark.slow
def test_a_sample_is_kept_until_its_parameters_are_far():
    kelvin = 60.0
    start = differentiable.begin(
        argon.potential(),
        argon.fcc((1, 1, 1), rattle=0.05),
        EnsembleConfig("langevin", kelvin),
        5.0,
    )
    kT = units.BOLTZMANN * kelvin
    draw = reweighting.sample_fn(start, 400, 20, discard=100)
    energies = jax.jit(reweighting.energies_fn(start))
    sample = draw(start.variables, start.state)
    assert sample.energies.shape == (20,)
    np.testing.assert_allclose(
        energies(start.variables, sample.frames), sample.energies, rtol=1e-9, atol=1e-12
    )
    same, drawn = reweighting.refresh(sample, start.variables, sample.energies, kT, draw)
    assert not drawn
    assert same is sample

    other = {"constants": {**start.variables["constants"], "sigma": jnp.array([3.7])}}
    moved = energies(other, sample.frames)
    fresh, drawn = reweighting.refresh(sample, other, moved, kT, draw)
    assert drawn
    np.testing.assert_allclose(energies(other, fresh.frames), fresh.energies, rtol=1e-9, atol=1e-12)


def test_energies_that_are_no_numbers_are_refused():
    sample = reweighting.Sample(jnp.zeros(0), jnp.zeros(3), None)
    with jax.debug_nans(False), pytest.raises(UserError, match="not finite"):
        reweighting.refresh(sample, {}, jnp.array([0.0, jnp.nan, 0.0]), KT, lambda *_: sample)
