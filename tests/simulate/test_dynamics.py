"""The compiled loop: replays, restarts, integrators against jax-md's own, energy conservation."""

import dataclasses

import jax
import jax.numpy as jnp
import jax_md
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.neighbors import device
from mlip_jax.simulate import dynamics, ensembles, jax_md_energy, system
from mlip_jax.simulate.settings import EnsembleConfig
from mlip_jax.simulate.watch import Limits, Stop
from tests.simulate.silicon import diamond, potential

DOUBLE = np.dtype("float64")


def make(kind="langevin", structure=None, *, chunk=50, timestep=1.0, kelvin=600.0, skin=0.3):
    """A system, its compiled dynamics and its first state."""
    structure = diamond(rattle=0.02) if structure is None else structure
    prepared = system.prepare(potential(), structure, "float64", skin)
    config = EnsembleConfig(kind=kind, temperature=kelvin)
    integrator = ensembles.build(config, timestep, structure.num_atoms, DOUBLE)
    compiled = dynamics.build(prepared.predict, integrator, prepared.template, chunk)
    return prepared, compiled, first_state(prepared, compiled, prepared.neighbors, kelvin)


def first_state(prepared, compiled, neighbors, kelvin=600.0, seed=5):
    return compiled.init(
        prepared.variables,
        jax.random.PRNGKey(seed),
        ensembles.maxwell_boltzmann(seed, prepared.masses, kelvin),
        prepared.masses[:, None],
        neighbors,
        prepared.images,
    )


def small(neighbors):
    """Room for a crystal at rest only: any vibration that lets a neighbour in overflows."""
    tight = dataclasses.replace(neighbors.capacity, active=4, row=16)
    return device.with_capacity(neighbors, tight)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_same_bits(first, second):
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def unwrapped(state):
    return np.asarray(state.integrator.position) + np.asarray(state.images) @ np.asarray(state.cell)


@pytest.fixture(scope="module")
def langevin():
    return make()


def test_the_first_forces_and_the_steps_are_one_program():
    """A model is traced for the first state, and not again for the steps from it."""
    structure = diamond(rattle=0.02)
    prepared = system.prepare(potential(), structure, "float64", 0.3)
    traces = []

    def predict(variables, graph):
        traces.append(graph)
        return prepared.predict(variables, graph)

    nve = ensembles.build(EnsembleConfig("nve"), 1.0, structure.num_atoms, DOUBLE)
    compiled = dynamics.build(predict, nve, prepared.template, 5)
    state = first_state(prepared, compiled, prepared.neighbors)
    before = len(traces)
    limits = Limits(*(DOUBLE.type(value) for value in Limits()))
    chunk, _ = dynamics.advance_chunk(compiled, prepared.variables, state, 5, limits)
    assert int(chunk.done) == 5
    assert before > 0
    assert len(traces) == before


@pytest.mark.slow
def test_a_replayed_chunk_is_that_of_a_run_with_room(langevin):
    """Overflow, growth and replay: bit for bit the run from the same state at the final size."""
    _prepared, compiled, _ = langevin
    crystal = system.prepare(potential(), diamond(), "float64", 0.3)
    start = first_state(crystal, compiled, small(crystal.neighbors))
    limits = Limits()
    state, growths = start, 0
    for _ in range(2):
        chunk, grown = dynamics.advance_chunk(compiled, {}, state, 50, limits)
        state, growths = chunk.state, growths + grown
    assert growths > 0
    assert int(state.step) == 100

    room = device.with_capacity(start.neighbors, state.neighbors.capacity)
    again = dataclasses.replace(start, neighbors=room)
    for _ in range(2):
        chunk, grown = dynamics.advance_chunk(compiled, {}, again, 50, limits)
        again = chunk.state
        assert grown == 0
    assert_same_bits(state, again)

    # Started large enough: other sizes, other order of summation.
    larger = dataclasses.replace(state.neighbors.capacity, active=20, row=28)
    large = first_state(crystal, compiled, device.with_capacity(crystal.neighbors, larger))
    chunk, _ = dynamics.advance_chunk(compiled, {}, large, 50, limits)
    chunk, _ = dynamics.advance_chunk(compiled, {}, chunk.state, 50, limits)
    np.testing.assert_allclose(unwrapped(chunk.state), unwrapped(state), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_an_overflow_ends_the_chunk_at_once(langevin):
    _, compiled, _ = langevin
    crystal = system.prepare(potential(), diamond(), "float64", 0.3)
    start = first_state(crystal, compiled, small(crystal.neighbors))
    chunk = compiled.advance({}, start, 50, Limits())
    assert int(chunk.overflow) & device.Flag.ACTIVE
    assert int(chunk.done) < 50


def test_chunks_do_not_change_the_result(langevin):
    _, compiled, start = langevin
    one, _ = dynamics.advance_chunk(compiled, {}, start, 40, Limits())
    two, _ = dynamics.advance_chunk(compiled, {}, start, 15, Limits())
    two, _ = dynamics.advance_chunk(compiled, {}, two.state, 25, Limits())
    assert_same_bits(one.state, two.state)


@pytest.mark.parametrize(
    ("limits", "stop"),
    [
        (Limits(max_temperature=100.0), Stop.TEMPERATURE),
        (Limits(min_distance=2.3), Stop.DISTANCE),
    ],
)
def test_limits_stop_at_the_offending_step(langevin, limits, stop):
    _, compiled, start = langevin
    limits = Limits(*(DOUBLE.type(value) for value in limits))
    chunk = compiled.advance({}, start, 50, limits)
    assert int(chunk.stop) == stop
    done = int(chunk.done)
    assert 0 < done < 50
    assert int(chunk.state.step) == done
    if stop == Stop.DISTANCE:
        shortest = np.asarray(chunk.records.shortest[:done])
        assert shortest[-1] < 2.3
        assert np.all(shortest[:-1] >= 2.3)


@pytest.mark.slow
def test_lists_are_rebuilt_before_they_miss_a_pair(langevin):
    """With a skin, the trajectory is that of a list built at every step."""
    _, compiled, _ = langevin
    structure = diamond(rattle=0.02)
    final = []
    for skin in (1e-6, 0.3):
        prepared = system.prepare(potential(), structure, "float64", skin)
        capacity = dataclasses.replace(prepared.neighbors.capacity, active=16, row=24)
        neighbors = device.with_capacity(prepared.neighbors, capacity)
        state = first_state(prepared, compiled, neighbors, kelvin=3000.0)
        chunk, _ = dynamics.advance_chunk(compiled, {}, state, 50, Limits())
        final.append(unwrapped(chunk.state))
        rebuilt = np.abs(chunk.state.neighbors.reference_positions - state.integrator.position)
        assert np.max(rebuilt) > 0.0
    np.testing.assert_allclose(final[0], final[1], atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nve", "langevin", "nose_hoover"])
def test_steps_are_those_of_jax_md(kind):
    """Ten steps against jax-md's drivers on the same potential through `jax_md_energy`."""
    structure = diamond((1, 1, 1), rattle=0.05)
    prepared, compiled, state = make(kind, structure, chunk=10, skin=0.6)
    energy_fn, neighbor_fn = jax_md_energy(potential(), structure, skin=0.6, precision="float64")
    neighbors = neighbor_fn.allocate(jnp.asarray(structure.positions))
    step, kT = 1.0 / units.TIME_UNIT, units.BOLTZMANN * 600.0
    masses = jnp.asarray(prepared.masses)
    init = {"mass": masses, "momenta": state.integrator.momentum, "neighbor": neighbors}
    shift, key = (lambda r, dr, **unused: r + dr), jax.random.PRNGKey(5)
    if kind == "nve":
        init_fn, step_fn = jax_md.simulate.nve(energy_fn, shift, step)
        other = init_fn(key, jnp.asarray(structure.positions), kT, **init)
    elif kind == "langevin":
        gamma = 0.01 * units.TIME_UNIT
        init_fn, step_fn = jax_md.simulate.nvt_langevin(energy_fn, shift, step, kT, gamma)
        other = init_fn(key, jnp.asarray(structure.positions), **init).set(rng=key)
    else:
        tau = 100.0 / units.TIME_UNIT
        init_fn, step_fn = jax_md.simulate.nvt_nose_hoover(energy_fn, shift, step, kT, 3, 2, 3, tau)
        other = init_fn(key, jnp.asarray(structure.positions), **init)
        # Theirs counts 3 N degrees of freedom; ours leaves out the conserved momentum.
        freedom = state.integrator.chain.degrees_of_freedom
        assert freedom == 3 * structure.num_atoms - 3
        other = other.set(chain=other.chain.set(degrees_of_freedom=freedom))
    for _ in range(10):
        other = step_fn(other, neighbor=neighbors)
        neighbors = neighbors.update(other.position)
        assert not neighbors.did_buffer_overflow
    chunk, _ = dynamics.advance_chunk(compiled, {}, state, 10, Limits())
    # jax-md rounds the step and tau to float32.
    np.testing.assert_allclose(unwrapped(chunk.state), other.position, atol=2e-6, rtol=0)
    np.testing.assert_allclose(chunk.state.integrator.momentum, other.momentum, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_nose_hoover_conserves_its_extended_energy():
    _, compiled, state = make("nose_hoover", timestep=0.5)
    chunk, _ = dynamics.advance_chunk(compiled, {}, state, 50, Limits())
    records = jax.tree.map(np.asarray, chunk.records)
    total = records.potential + records.kinetic
    conserved = total + records.bath
    assert np.ptp(total) > 10 * np.ptp(conserved)
    assert np.ptp(conserved) < 2e-3  # eV in 64 atoms: the error of a 0.5 fs step


def nve_energies(timestep, steps, chunk=400):
    """Total energy [eV] at each step of 64 Si atoms at 300 K."""
    _, compiled, state = make(
        "nve", diamond(), chunk=chunk, timestep=timestep, kelvin=600.0, skin=0.6
    )
    energies = []
    for _ in range(steps // chunk):
        result, _ = dynamics.advance_chunk(compiled, {}, state, chunk, Limits())
        state = result.state
        energies.append(np.asarray(result.records.potential + result.records.kinetic))
    return np.concatenate(energies)


def order_of_fluctuations(duration):
    """Exponent with which the RMS fluctuation of the total energy falls with the step."""
    steps = (0.25, 0.5, 1.0)
    series = [nve_energies(step, round(duration / step)) for step in steps]
    fluctuations = [np.std(energies) for energies in series]
    return np.polyfit(np.log(steps), np.log(fluctuations), 1)[0], series


@pytest.mark.slow
def test_energy_fluctuates_with_the_square_of_the_step():
    order, _ = order_of_fluctuations(400.0)
    assert abs(order - 2.0) < 0.2


@pytest.mark.optimized
@pytest.mark.slow
def test_energy_is_conserved_over_20_ps():
    """Second order in the step, and no drift beyond 1e-3 meV/atom/ps or its statistical error."""
    order, series = order_of_fluctuations(20_000.0)
    assert abs(order - 2.0) < 0.2
    for step, energies in zip((0.25, 0.5, 1.0), series, strict=True):
        picoseconds = 1e-3 * step * np.arange(len(energies))
        slope = np.polyfit(picoseconds, energies, 1)[0]
        blocks = energies.reshape(20, -1).mean(axis=1)  # 1 ps each
        error = np.std(blocks, ddof=1) / np.sqrt(20) / (picoseconds[-1] / np.sqrt(12.0))
        assert abs(slope) * 1e3 / 64 < max(1e-3, 2.6 * error * 1e3 / 64)
