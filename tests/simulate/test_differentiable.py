"""Derivatives of trajectories: finite differences, checkpoints, overflow, memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.neighbors import device
from mlip_jax.potential import Potential, cast_variables
from mlip_jax.simulate import differentiable, gates
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig
from tests.simulate import argon, silicon

LENGTH, TIMESTEP, KELVIN = 200, 5.0, 60.0
STRUCTURE = argon.fcc((1, 1, 1), rattle=0.05)
"""Four atoms, in a cell smaller than the cutoff."""
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3))

# Of a difference of fourth order with a step of 1e-5 in float64: mostly rounding, as it grows in
# 200 steps. (Its error of second order was seen to be 2e-6.)
DIFFERENCE = 1e-6
# Two orders of the same operations.
ROUNDING = 1e-9


def learned():
    """Lennard-Jones and a small network with random parameters."""
    pair = {"species": ["Ar"], "cutoff": argon.CUTOFF}
    network = {"num_interactions": 1, "num_features": 4, "num_filters": 3, "num_gaussians": 6}
    terms = [
        {"lennard_jones": {**pair, "epsilon": argon.EPSILON, "sigma": argon.SIGMA}},
        {"schnet": {**pair, **network, "energy_scale": 0.02}},
    ]
    model = models.build_model({"sum": {"terms": terms}})
    graph = make_graph(STRUCTURE, argon.CUTOFF, dtype=np.float64)
    variables = jax.jit(model.init)(jax.random.PRNGKey(1), graph)
    return Potential(model, cast_variables(variables, np.dtype("float64")), {18: 0.0})


def begin(kind, potential=None, **options):
    config = EnsembleConfig(kind=kind, temperature=KELVIN, **options)
    potential = argon.potential() if potential is None else potential
    return differentiable.begin(potential, STRUCTURE, config, TIMESTEP, seed=1)


def energy(variables, state):
    del variables
    return state.energy


def loss_of(start, run):
    """Weighted last positions, and the mean potential energy."""

    def loss(variables, positions):
        result = run(variables, differentiable.moved(start.state, positions))
        last = differentiable.unwrapped(result.state)
        return jnp.sum(WEIGHTS * last) + 10.0 * jnp.mean(result.observables), result.flags

    return loss


def slopes_of(start, **options):
    """`(variables, positions) -> ((loss, flags), slopes)`, compiled."""
    options = {"observe": energy, **options}
    run = differentiable.trajectory_fn(start.compiled, LENGTH, **options)
    return jax.jit(jax.value_and_grad(loss_of(start, run), argnums=(0, 1), has_aux=True))


def slopes_of_the_end(start, **options):
    """Of the last positions alone: what is observed on the way passes fewer gates."""
    run = differentiable.trajectory_fn(start.compiled, LENGTH, **options)

    def loss(variables, positions):
        result = run(variables, differentiable.moved(start.state, positions))
        return jnp.sum(WEIGHTS * differentiable.unwrapped(result.state))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def directions(start):
    """A direction of the variables in proportion to them, and one of the positions [Å]."""
    rng = np.random.default_rng(1)
    along = jax.tree.map(lambda a: a * rng.uniform(0.5, 1.0, a.shape), start.variables)
    none = jax.tree.map(jnp.zeros_like, start.variables)
    return {
        "variables": (along, jnp.zeros((4, 3))),
        "positions": (none, jnp.asarray(rng.normal(size=(4, 3)))),
    }


def check_differences(slopes, start, step=1e-5):
    """Slopes along either direction are the differences of the same program's values."""
    point = (start.variables, differentiable.unwrapped(start.state))
    (_, flags), gradient = slopes(*point)
    assert int(flags) == 0
    for name, direction in directions(start).items():
        values = [
            slopes(*jax.tree.map(lambda a, b, h=h: a + h * b, point, direction))[0][0]
            for h in (-2 * step, -step, step, 2 * step)
        ]
        difference = float(np.dot([1.0, -8.0, 8.0, -1.0], values)) / (12 * step)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, direction)
        slope = float(sum(jax.tree.leaves(products)))
        assert abs(slope) > 1e-2, name
        assert slope == pytest.approx(difference, rel=DIFFERENCE), name


def assert_same(first, second, tolerance=ROUNDING):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def nve():
    return begin("nve")


@pytest.fixture(scope="module")
def plain(nve):
    return slopes_of(nve, segment=0)


def test_slopes_of_nve_are_finite_differences(nve, plain):
    check_differences(plain, nve)


def test_checkpoints_change_nothing(nve, plain):
    point = (nve.variables, differentiable.unwrapped(nve.state))
    assert_same(slopes_of(nve)(*point), plain(*point))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["langevin", "csvr", "nose_hoover"])
def test_slopes_of_thermostats_are_finite_differences(kind):
    start = begin(kind)
    slopes = slopes_of(start)
    check_differences(slopes, start)
    point = (start.variables, differentiable.unwrapped(start.state))
    assert_same(slopes_of(start, segment=0)(*point), slopes(*point))


@pytest.mark.slow
def test_slopes_through_a_moving_cell_are_finite_differences():
    barostat = BarostatConfig(cell="flexible", relaxation_time=500.0, compressibility=0.5)
    start = begin("langevin", barostat=barostat)
    cell = differentiable.trajectory_fn(start.compiled, LENGTH)(start.variables, start.state)
    assert np.max(np.abs(cell.state.cell - start.state.cell)) > 1e-2
    check_differences(slopes_of(start), start)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nve", "langevin"])
def test_slopes_of_a_learned_potential_are_finite_differences(kind):
    start = begin(kind, learned())
    # Second derivatives of the network jump where a pair crosses the cutoff, which puts differences
    # off in proportion to their step: by 1e-6 for 1e-5, 6e-10 (variables) for this one.
    check_differences(slopes_of(start, segment=20), start, step=1.5e-7)


@pytest.mark.slow
def test_observables_are_those_of_a_denser_series(nve):
    def note(variables, state):
        del variables
        return state.energy, state.step

    point = (nve.variables, nve.state)
    dense = differentiable.trajectory_fn(nve.compiled, 60, observe=note, segment=0)(*point)
    for segment in (None, 0):
        options = {"observe": note, "interval": 12, "segment": segment}
        thin = differentiable.trajectory_fn(nve.compiled, 60, **options)(*point)
        np.testing.assert_allclose(thin.observables[0], dense.observables[0][11::12], rtol=1e-12)
        np.testing.assert_array_equal(thin.observables[1], [12, 24, 36, 48, 60])


@pytest.mark.slow
def test_a_truncated_slope_does_not_reach_the_start(nve):
    point = (nve.variables, differentiable.unwrapped(nve.state))
    (value, (by_variables, by_positions)), (whole, (all_variables, _)) = (
        slopes_of_the_end(nve, **options)(*point)
        for options in ({"gate": gates.truncated(50)}, {"segment": 0})
    )
    assert float(value) == pytest.approx(float(whole), rel=ROUNDING)
    np.testing.assert_array_equal(by_positions, 0.0)
    for some, every in zip(*map(jax.tree.leaves, (by_variables, all_variables)), strict=True):
        assert np.all(some != 0.0)
        assert np.all(np.abs(some - every) > 1e-3 * np.abs(every))


@pytest.mark.slow
def test_a_list_that_overflows_gives_no_number():
    crystal = differentiable.begin(
        silicon.potential(), silicon.diamond((1, 1, 1)), EnsembleConfig("nve", 2000.0), 1.0
    )
    tight = dataclasses.replace(crystal.state.neighbors.capacity, active=4, row=16)
    neighbors = device.with_capacity(crystal.state.neighbors, tight)
    state = dataclasses.replace(crystal.state, neighbors=neighbors)
    assert int(device.flags(neighbors)) == 0

    def loss(state, positions):
        run = differentiable.trajectory_fn(crystal.compiled, 60, observe=energy)
        result = run(crystal.variables, differentiable.moved(state, positions))
        return jnp.sum(result.observables), result

    slopes = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True))
    positions = differentiable.unwrapped(state)
    with jax.debug_nans(False):
        (value, result), slope = slopes(state, positions)
        assert int(result.flags) & device.Flag.ACTIVE
        assert np.isnan(value)
        assert np.all(np.isnan(slope))
        assert np.all(np.isnan(result.observables))
        assert np.all(np.isnan(result.state.integrator.momentum))

    roomy = differentiable.with_room(crystal.compiled, crystal.variables, state, 60)
    (value, result), slope = slopes(roomy, positions)
    assert int(result.flags) == 0
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


def long_gradient(length):
    """The compiled gradient of the last energy of 64 Si atoms, and its arguments."""
    start = differentiable.begin(
        silicon.potential(), silicon.diamond(rattle=0.02), EnsembleConfig("nve", 300.0), 1.0
    )
    run = differentiable.trajectory_fn(start.compiled, length)

    def loss(positions):
        return run(start.variables, differentiable.moved(start.state, positions)).state.energy

    positions = differentiable.unwrapped(start.state)
    return jax.jit(jax.grad(loss)).lower(positions).compile(), positions


@pytest.mark.optimized
@pytest.mark.slow
def test_memory_grows_with_the_square_root_of_the_length():
    """10^4 steps of 64 atoms stay below 2 GiB; at that length only finiteness is claimed."""
    short, _ = long_gradient(100)
    long, positions = long_gradient(10_000)
    sizes = [p.memory_analysis().temp_size_in_bytes for p in (short, long)]
    assert sizes[1] < 2**31
    assert sizes[1] < 12 * sizes[0]  # the states alone: 10
    assert np.all(np.isfinite(long(positions)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "got 0 steps"),
        ({"length": 10, "interval": 3}, "observed every 3"),
        ({"length": 10, "segment": -1}, "segment: got -1"),
    ],
)
def test_impossible_lengths_are_refused(nve, options, message):
    with pytest.raises(UserError, match=message):
        differentiable.trajectory_fn(nve.compiled, **options)
