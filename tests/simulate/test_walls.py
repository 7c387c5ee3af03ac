"""Reflecting walls: the flight of free atoms, energy, the way back, and what is refused."""

import dataclasses

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.simulate import dynamics, engine, ensembles, system, thermo, walls
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig, SimulationConfig
from mlip_jax.simulate.watch import Limits
from tests.simulate import argon

BOX = {"x": (-1.0, 11.0), "y": (-2.0, 12.0), "z": (-1.5, 11.5)}
TIGHT = (-0.4, 8.4)
NVE = EnsembleConfig(kind="nve", temperature=90.0)
RUN = SimulationConfig(
    steps=400, timestep=4.0, precision="float64", skin=1.0, walls=BOX, trajectory_interval=40
)


def cluster():
    """32 atoms that no boundary repeats."""
    periodic = argon.fcc(rattle=0.1)
    return dataclasses.replace(periodic, cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))


def wave(places, lower, upper):
    """Where a free atom is between two walls: a triangular wave of the unfolded place."""
    width = upper - lower
    return upper - np.abs((places - lower) % (2.0 * width) - width)


@given(st.lists(st.floats(-200.0, 200.0), min_size=1, max_size=5), st.floats(-9.0, 4.0))
def test_places_are_those_of_an_unfolded_flight(places, lower):
    places, upper = np.array(places), lower + 5.5
    folded, mirrored = walls.fold(jnp.asarray(places), lower, upper)
    np.testing.assert_allclose(folded, wave(places, lower, upper), atol=1e-12)
    inside = (places >= lower) & (places <= upper)
    np.testing.assert_array_equal(np.asarray(folded)[inside], places[inside])
    # Between two turns the slope of the wave is that of the flight, or the opposite one.
    distance = np.abs((places - lower) / 5.5 - np.round((places - lower) / 5.5)) * 5.5
    clear = distance > 1e-3
    slope = wave(places + 1e-4, lower, upper) - wave(places - 1e-4, lower, upper)
    np.testing.assert_array_equal(np.asarray(mirrored)[clear], slope[clear] < 0.0)


def compiled(structure, ensemble, between):
    prepared = system.prepare(argon.potential(), structure, "float64", 1.0)
    integrator = ensembles.build(
        ensemble, 4.0, structure.num_atoms, np.dtype("float64"), between=between
    )
    built = dynamics.build(prepared.predict, integrator, prepared.template, 100)

    def begin(momenta):
        return built.init(
            prepared.variables,
            jax.random.PRNGKey(0),
            momenta,
            prepared.masses[:, None],
            prepared.neighbors,
            prepared.images,
        )

    def go(state):
        chunk, _ = dynamics.advance_chunk(built, prepared.variables, state, 100, Limits())
        return chunk.state

    return begin, go, built


def test_a_free_atom_flies_to_and_fro():
    structure = dataclasses.replace(
        cluster(), atomic_numbers=np.array([18]), positions=np.array([[1.0, 2.0, 3.0]])
    )
    begin, go, built = compiled(structure, NVE, BOX)
    assert built.degrees_of_freedom == 3  # the walls keep no momentum
    momenta = np.array([[90.0, -40.0, 7.0]])
    state = go(begin(momenta))
    flown = structure.positions + momenta / 39.948 * 400.0 / units.TIME_UNIT
    for axis, (lower, upper) in enumerate(BOX.values()):
        expected = wave(flown[0, axis], lower, upper)
        np.testing.assert_allclose(state.integrator.position[0, axis], expected, atol=1e-9)
    np.testing.assert_allclose(np.abs(state.integrator.momentum), np.abs(momenta), rtol=1e-12)


@pytest.mark.slow
def test_dynamics_between_walls_runs_back():
    structure = cluster()
    begin, go, built = compiled(structure, NVE, {"z": TIGHT})
    masses = np.full(structure.num_atoms, 39.948)
    assert built.degrees_of_freedom == 3 * structure.num_atoms - 2
    state = go(begin(ensembles.maxwell_boltzmann(1, masses, 300.0)))
    lower, upper = TIGHT
    heights = np.asarray(state.integrator.position)[:, 2]
    assert heights.min() >= lower
    assert heights.max() <= upper
    outward = np.asarray(state.integrator.momentum).sum(axis=0)
    assert np.abs(outward[2]) > 1e-3  # a wall was hit
    np.testing.assert_allclose(outward[:2], 0.0, atol=1e-10)
    turned = state.integrator.set(momentum=-state.integrator.momentum)
    back = go(dataclasses.replace(state, integrator=turned))
    np.testing.assert_allclose(back.integrator.position, structure.positions, atol=1e-7)


@pytest.mark.slow
def test_atoms_stay_inside_and_energy_is_conserved(tmp_path):
    hot = dataclasses.replace(NVE, temperature=400.0)
    engine.run(argon.potential(), cluster(), hot, RUN, tmp_path)
    columns = thermo.read(tmp_path / "thermo.jsonl")
    energies = columns["conserved_eV"]
    assert np.ptp(columns["potential_eV"]) > 0.1
    assert np.ptp(energies) < 5e-3
    frames = ase.io.read(tmp_path / "trajectory.extxyz", index=":")
    positions = np.array([frame.positions for frame in frames])
    for axis, (lower, upper) in enumerate(BOX.values()):
        assert positions[..., axis].min() >= lower
        assert positions[..., axis].max() <= upper
    # Some atoms would have left: the same without walls.
    free = dataclasses.replace(RUN, walls={})
    engine.run(argon.potential(), cluster(), hot, free, tmp_path / "free")
    last = ase.io.read(tmp_path / "free" / "trajectory.extxyz", index=-1)
    assert last.positions.min() < -2.0


@pytest.mark.parametrize(
    ("structure", "ensemble", "changes", "message"),
    [
        (argon.fcc(), NVE, {}, "across a periodic direction"),
        (cluster(), NVE, {"walls": {"z": (1.0, 9.0)}}, "atoms between"),
        (cluster(), NVE, {"drift_interval": 1}, "drift_interval"),
        (
            cluster(),
            EnsembleConfig(kind="csvr", barostat=BarostatConfig()),
            {},
            "barostat",
        ),
    ],
)
def test_impossible_walls_are_refused(structure, ensemble, changes, message, tmp_path):
    config = dataclasses.replace(RUN, **changes)
    with pytest.raises(UserError, match=message):
        engine.run(argon.potential(), structure, ensemble, config, tmp_path)


def test_the_lower_wall_comes_first():
    with pytest.raises(UserError, match="lower wall first"):
        dataclasses.replace(RUN, walls={"x": (3.0, 3.0)})
