"""Diffusion from short trajectories: an ideal gas, its own velocities, and a long simulation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.neighbors import device
from mlip_jax.properties import transport
from mlip_jax.simulate import differentiable, diffusion, reweighting
from mlip_jax.simulate.reweighting import Frames
from mlip_jax.simulate.settings import EnsembleConfig
from tests.simulate import argon

STEPS, TIMESTEP = 20, 10.0


@functools.cache
def ready():
    """A system with a large list, and its function, compiled once."""
    structure = argon.fcc((1, 1, 1), lattice=5.6, rattle=0.1)
    nve = EnsembleConfig("nve", 600.0)
    start = differentiable.begin(argon.potential(), structure, nve, TIMESTEP)
    capacity = device.grown_capacity(start.state.neighbors, extra=24)
    neighbors = device.with_capacity(start.state.neighbors, capacity)
    start = start._replace(state=dataclasses.replace(start.state, neighbors=neighbors))
    return start, jax.jit(diffusion.coefficients_fn(start, STEPS))


def variables(epsilon=argon.EPSILON):
    return {"constants": {"epsilon": jnp.array([epsilon]), "sigma": jnp.array([argon.SIGMA])}}


def starting_points(start, frames=2, trajectories=3):
    """Frames that differ a little, and momenta."""
    positions = np.asarray(start.system.structure.positions)
    noise = np.random.default_rng(1).normal(0.0, 0.05, (frames, *positions.shape))
    cells = np.repeat(start.system.structure.cell[None], frames, axis=0)
    momenta = diffusion.draw_momenta(start.system.masses, 600.0, frames, trajectories, seed=3)
    return Frames(jnp.asarray(positions + noise), jnp.asarray(cells)), jnp.asarray(momenta)


def test_an_ideal_gas_flies_as_far_as_the_window_lets_it():
    """Without forces `D(T) = <v²> T / 3`, for every atom."""
    start, function = ready()
    frames, momenta = starting_points(start)
    found = function(variables(0.0), frames, momenta, start.state.neighbors)
    squares = np.sum((np.asarray(momenta) / start.system.masses[:, None]) ** 2, axis=-1)
    time = STEPS * TIMESTEP / units.TIME_UNIT
    np.testing.assert_allclose(found.values, squares * time / 3.0 / units.TIME_UNIT, rtol=1e-10)
    assert not np.any(found.flags)


def test_momenta_are_of_the_temperature_and_at_rest_as_a_whole():
    masses = np.array([1.0, 28.0, 28.0, 16.0])
    momenta = diffusion.draw_momenta(masses, 300.0, 40, 50, seed=0)
    np.testing.assert_allclose(momenta.sum(axis=2), 0.0, atol=1e-12)
    kinetic = np.mean(np.sum(momenta**2 / masses[:, None], axis=(2, 3))) / 2.0
    # 3 N - 3 squares, each of relative variance 2, in 2000 draws: five standard errors.
    expected = 4.5 * units.BOLTZMANN * 300.0
    assert kinetic == pytest.approx(expected, rel=5 * np.sqrt(2 / 9 / 2000))
    assert len({float(x) for x in momenta[:, :, 0, 0].ravel()}) == 2000


def test_the_ends_of_a_window_give_the_integral_of_the_autocorrelation():
    start, function = ready()
    frames, momenta = starting_points(start)
    found = function(variables(), frames, momenta, start.state.neighbors)
    state = differentiable.moved(start.state, frames.positions[0], momenta[0, 0])
    first = start.compiled.evaluate(variables(), state).integrator
    run = differentiable.trajectory_fn(
        start.compiled, STEPS, observe=lambda _, s: (s.integrator.momentum, s.integrator.force)
    )
    momenta, forces = run(variables(), state).observables
    masses = start.system.masses[:, None]
    velocities = np.concatenate([first.momentum[None], momenta]) / masses
    step = TIMESTEP / units.TIME_UNIT
    integral = np.trapezoid(np.sum(velocities[0] * velocities, axis=-1), dx=step, axis=0)
    # Velocity Verlet moves atoms by the sum of the trapezoids and this, exactly.
    kicks = 0.25 * step**2 * np.asarray(first.force - forces[-1]) / masses
    integral = integral + np.sum(velocities[0] * kicks, axis=-1)
    np.testing.assert_allclose(found.values[0, 0], integral / 3.0 / units.TIME_UNIT, rtol=1e-8)


@pytest.mark.slow
def test_room_is_made_for_the_trajectories():
    start, function = ready()
    frames, momenta = starting_points(start)
    capacity = start.state.neighbors.capacity
    tight = dataclasses.replace(capacity, row=4, active=4)
    tight = device.with_capacity(start.state.neighbors, tight)
    with jax.debug_nans(False):
        assert np.all(np.asarray(function(variables(), frames, momenta, tight).flags) != 0)
        room = diffusion.with_room(start, STEPS, function, variables(), frames, momenta, tight)
    found = function(variables(), frames, momenta, room)
    assert not np.any(found.flags)
    wide = function(variables(), frames, momenta, start.state.neighbors)
    np.testing.assert_allclose(found.values, wide.values, rtol=1e-8, atol=1e-12)


@pytest.mark.optimized
@pytest.mark.slow
def test_a_dense_gas_diffuses_as_in_one_long_simulation():
    """Against the autocorrelation of `properties.transport`, of all times of a trajectory."""
    kelvin, timestep, window = 300.0, 5.0, 60
    structure = argon.fcc((2, 2, 2), lattice=5.8, rattle=0.05)
    begun = {
        kind: differentiable.begin(argon.potential(), structure, config, timestep)
        for kind, config in {
            "nve": EnsembleConfig("nve", kelvin),
            "langevin": EnsembleConfig("langevin", kelvin),
            "csvr": EnsembleConfig("csvr", kelvin, relaxation_time=200.0),
        }.items()
    }
    start = begun["langevin"]
    with jax.debug_nans(False):  # of lists that overflow
        sample = reweighting.sample_fn(start, 4000, 100, discard=500)(start.variables, start.state)
    masses = start.system.masses
    momenta = jnp.asarray(diffusion.draw_momenta(masses, kelvin, 40, 4, seed=5))
    nve = begun["nve"]
    function = jax.jit(diffusion.coefficients_fn(nve, window))
    with jax.debug_nans(False):
        room = diffusion.with_room(
            nve, window, function, nve.variables, sample.frames, momenta, sample.state.neighbors
        )
    found = function(nve.variables, sample.frames, momenta, room).values
    each = np.mean(found, axis=(1, 2))
    value, error = float(np.mean(each)), float(np.std(each) / np.sqrt(len(each)))

    long = begun["csvr"]
    draw = jax.jit(
        differentiable.trajectory_fn(
            long.compiled, 8000, observe=lambda _, s: s.integrator.momentum, segment=0
        )
    )
    with jax.debug_nans(False):
        state = differentiable.with_room(long.compiled, long.variables, long.state, 8000)
        # Where atoms collide every rounding makes another trajectory; `draw` rounds otherwise.
        capacity = device.grown_capacity(state.neighbors, extra=8)
        neighbors = device.with_capacity(state.neighbors, capacity)
        drawn = draw(long.variables, dataclasses.replace(state, neighbors=neighbors))
    assert not int(drawn.flags)
    series = drawn.observables[500:]

    def integral(part):
        correlation = transport.correlations(part / masses[None, :, None], window + 1) / 3.0
        return np.trapezoid(correlation, dx=timestep / units.TIME_UNIT) / units.TIME_UNIT

    parts = [integral(part) for part in jnp.array_split(series, 10)]
    other = np.std(parts) / np.sqrt(len(parts))
    assert np.hypot(error, other) < 0.1 * value
    assert value == pytest.approx(float(integral(series)), abs=4.0 * np.hypot(error, other))
