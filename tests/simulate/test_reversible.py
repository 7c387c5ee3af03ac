"""The trajectory that runs back: agreement with the stored one, exactness, memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.neighbors import device
from mlip_jax.simulate import differentiable
from mlip_jax.simulate.reversible import reversible_fn
from mlip_jax.simulate.settings import EnsembleConfig
from tests.simulate import argon, silicon

LENGTH, TIMESTEP = 200, 5.0
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3))

# A grid of 1e-12 Å, whose rounding grows in 200 steps.
GRID = 1e-7


@pytest.fixture(scope="module")
def start():
    structure = argon.fcc((1, 1, 1), rattle=0.05)
    config = EnsembleConfig("nve", 60.0)
    return differentiable.begin(argon.potential(), structure, config, TIMESTEP, seed=1)


def note(variables, state):
    """Something of parameters, momenta, forces and energy, and an integer."""
    kinetic = jnp.sum(state.integrator.momentum**2 / state.integrator.mass)
    forces = jnp.sum(state.integrator.force**2)
    return variables["constants"]["epsilon"][0] * kinetic + forces + state.energy, state.step


def slopes_of(start, run):
    """Loss and its slopes by parameters, positions, momenta and cell."""

    def loss(variables, positions, momenta, cell):
        state = differentiable.moved(start.state, positions, momenta)
        result = run(variables, dataclasses.replace(state, cell=cell))
        last = result.state
        value = jnp.sum(WEIGHTS * differentiable.unwrapped(last)) + last.energy
        value += jnp.sum(WEIGHTS * last.integrator.momentum)
        if result.observables is not None:
            value += 10.0 * jnp.mean(result.observables[0])
        return value, result

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))


def point(start):
    positions = differentiable.unwrapped(start.state)
    return start.variables, positions, start.state.integrator.momentum, start.state.cell


def check(start, interval):
    options = {"observe": note, "interval": interval}
    plain = differentiable.trajectory_fn(start.compiled, LENGTH, segment=0, **options)
    back = reversible_fn(start.compiled, TIMESTEP, LENGTH, **options)
    (value, other), slopes = slopes_of(start, plain)(*point(start))
    (again, result), reversed_slopes = slopes_of(start, back)(*point(start))
    assert int(result.flags) == 0
    assert float(again) == pytest.approx(float(value), rel=GRID)
    for a, b in zip(result.observables, other.observables, strict=True):
        np.testing.assert_allclose(a, b, rtol=GRID, atol=GRID)
    for a, b in zip(*map(jax.tree.leaves, (reversed_slopes, slopes)), strict=True):
        assert np.max(np.abs(b)) > 1e-2
        np.testing.assert_allclose(a, b, rtol=GRID, atol=GRID * np.max(np.abs(b)))


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 20])
def test_slopes_are_those_of_the_stored_trajectory(start, interval):
    check(start, interval)


@pytest.mark.slow
def test_forces_that_depend_on_the_past_give_no_slope(start):
    """A friction: the way back does not end at the start, and that does not pass."""

    def evaluate(variables, state):
        state = start.compiled.evaluate(variables, state)
        integrator = state.integrator
        force = integrator.force - 1e-6 * integrator.momentum
        return dataclasses.replace(state, integrator=integrator.set(force=force))

    run = reversible_fn(start.compiled._replace(evaluate=evaluate), TIMESTEP, 10)
    with jax.debug_nans(False):
        (value, _), slopes = slopes_of(start, run)(*point(start))
    assert np.isfinite(value)
    assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.slow
def test_memory_does_not_grow_and_single_precision_returns():
    """64 atoms in float32, whose way back is exact, too: its slope would be NaN."""
    crystal = differentiable.begin(
        silicon.potential(),
        silicon.diamond(rattle=0.02),
        EnsembleConfig("nve", 300.0),
        1.0,
        precision="float32",
    )

    def slope(length):
        run = reversible_fn(crystal.compiled, 1.0, length)

        def loss(positions):
            state = differentiable.moved(crystal.state, positions)
            return run(crystal.variables, state).state.energy

        return jax.jit(jax.grad(loss)).lower(positions).compile()

    positions = differentiable.unwrapped(crystal.state)
    short, long = slope(20), slope(10_000)
    sizes = [p.memory_analysis().temp_size_in_bytes for p in (short, long)]
    assert sizes[1] <= 1.01 * sizes[0]
    assert sizes[1] < 2**31
    slopes = short(positions)
    assert np.all(np.isfinite(slopes))
    assert np.max(np.abs(slopes)) > 1e-2


@pytest.mark.slow
def test_a_list_that_overflows_gives_no_number():
    crystal = differentiable.begin(
        silicon.potential(), silicon.diamond((1, 1, 1)), EnsembleConfig("nve", 2000.0), 1.0
    )
    tight = dataclasses.replace(crystal.state.neighbors.capacity, active=4, row=16)
    neighbors = device.with_capacity(crystal.state.neighbors, tight)
    state = dataclasses.replace(crystal.state, neighbors=neighbors)
    run = reversible_fn(crystal.compiled, 1.0, 60)
    with jax.debug_nans(False):
        result = jax.jit(run)(crystal.variables, state)
        assert int(result.flags) & device.Flag.ACTIVE
        assert np.isnan(result.state.energy)
        assert np.all(np.isnan(result.state.integrator.position))
