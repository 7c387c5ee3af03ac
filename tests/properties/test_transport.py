"""Displacements, correlations and spectra of trajectories whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.properties import transport
from mlip_jax.simulate import series


def walk(frames=4000, atoms=40, step=0.1, seed=0):
    steps = np.random.default_rng(seed).normal(scale=step, size=(frames, atoms, 3))
    return np.cumsum(steps, axis=0)


def test_displacements_are_those_of_all_pairs_of_frames():
    positions = walk(frames=30, atoms=3)
    found = transport.mean_square_displacements(jnp.asarray(positions), 30)
    for lag in range(30):
        moved = positions[lag:] - positions[: 30 - lag]
        expected = np.mean(np.sum(moved**2, axis=-1))
        np.testing.assert_allclose(found[lag], expected, rtol=1e-10, atol=1e-12)


def test_free_flight_goes_with_the_square_of_time():
    velocities = np.random.default_rng(1).normal(size=(5, 3))
    positions = np.arange(50)[:, None, None] * velocities + 100.0
    found = transport.mean_square_displacements(jnp.asarray(positions), 20)
    expected = np.mean(np.sum(velocities**2, axis=1)) * np.arange(20) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-8)


def test_a_random_walk_has_its_coefficient_within_the_error():
    found = [transport.diffusion(walk(seed=seed), 2.0) for seed in range(12)]
    exact = 0.1**2 / (2 * 2.0)  # the variance of a step, over twice its time
    away = np.array([(one.coefficient - exact) / one.error for one in found])
    assert np.abs(away).max() < 6.0  # t of 4 degrees of freedom: 0.4 % each
    assert np.mean(np.abs(away) < 1.5) >= 0.5  # 79 % expected
    assert all(one.error < 0.1 * exact for one in found)
    assert found[0].window == (0.2 * 400 * 2.0, 400 * 2.0)


def test_slopes_of_displacements_are_differences():
    positions = jnp.asarray(walk(frames=12, atoms=2))
    weights = jnp.arange(1.0, 7.0)

    def total(positions):
        return jnp.sum(weights * transport.mean_square_displacements(positions, 6))

    direction = jnp.asarray(walk(frames=12, atoms=2, seed=3))
    ahead, back = (total(positions + h * direction) for h in (1e-4, -1e-4))
    slope = jnp.sum(jax.grad(total)(positions) * direction)
    np.testing.assert_allclose(slope, (ahead - back) / 2e-4, rtol=1e-8)


def test_an_oscillator_has_one_line():
    interval, frequency = 2.0, 5.0  # fs, THz
    phases = np.random.default_rng(2).uniform(0, 2 * np.pi, size=(1, 200, 3))
    times = interval * np.arange(3000)[:, None, None]
    masses = np.linspace(1.0, 50.0, 200)
    momenta = np.sqrt(masses)[:, None] * np.cos(2e-3 * np.pi * frequency * times + phases)
    correlation = transport.velocity_autocorrelation(
        jnp.asarray(momenta), jnp.asarray(masses), 1000
    )
    expected = np.cos(2e-3 * np.pi * frequency * interval * np.arange(1000))
    np.testing.assert_allclose(correlation, expected, atol=0.02)
    spectrum = transport.vibrational_spectrum(correlation, interval)
    assert spectrum.frequencies[np.argmax(spectrum.density)] == pytest.approx(frequency, abs=0.3)
    assert np.trapezoid(spectrum.density, spectrum.frequencies) == pytest.approx(1.0, abs=1e-12)
    near = np.abs(spectrum.frequencies - frequency) < 1.0
    share = np.trapezoid(spectrum.density[near], spectrum.frequencies[near])
    assert share == pytest.approx(1.0, abs=0.05)


def test_drift_is_that_of_the_centre_of_mass():
    masses = np.array([1.0, 3.0, 10.0])
    positions = walk(frames=20, atoms=3)
    drifting = positions + np.arange(20)[:, None, None] * np.array([1.0, -2.0, 0.5])
    still = transport.without_drift(drifting, masses)
    np.testing.assert_allclose(np.einsum("fak,a->fk", still, masses), 0.0, atol=1e-12)
    np.testing.assert_allclose(still, transport.without_drift(positions, masses), atol=1e-12)


def test_wrapped_positions_are_unwrapped_in_a_cell_that_moves():
    free = walk(frames=200, atoms=6, step=0.3)
    cell = np.array([[3.0, 0.2, 0.0], [0.0, 4.0, 0.5], [0.3, 0.0, 5.0]])
    cells = cell * (1.0 + 1e-4 * np.arange(200))[:, None, None]
    fractional = np.einsum("fai,fij->faj", free, np.linalg.inv(cells))
    jumps = np.floor(fractional) * np.array([True, True, False])
    wrapped = free - np.einsum("fai,fij->faj", jumps, cells)
    pbc = np.array([True, True, False])
    found = series.unwrapped(wrapped, cells, pbc)
    shift = np.einsum("ai,fij->faj", jumps[0], cells)
    np.testing.assert_allclose(found, free - shift, atol=1e-10)
    np.testing.assert_allclose(series.unwrapped(free, cells, pbc), free, atol=1e-10)


def test_too_few_frames_and_impossible_windows_are_refused():
    with pytest.raises(UserError, match="got 10 frames in 5 parts"):
        transport.diffusion(walk(frames=10), 1.0)
    with pytest.raises(UserError, match="window"):
        transport.diffusion(walk(frames=100), 1.0, window=(0.5, 0.2))
