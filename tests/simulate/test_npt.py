"""Simulations whose cell moves, schedules and fixed atoms: files, restarts, lists, pressure."""

import dataclasses

import ase.io
import numpy as np
import pytest

import mlip_jax as mj
from mlip_jax import config as configs
from mlip_jax import elements, units
from mlip_jax.config import UserError
from mlip_jax.neighbors import device
from mlip_jax.simulate import dynamics, engine, thermo
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig, Schedule, SimulationConfig
from tests.simulate import argon, silicon

pytestmark = pytest.mark.slow  # every simulation compiles its own chunk

NPT = EnsembleConfig(
    kind="csvr",
    temperature=600.0,
    barostat=BarostatConfig(
        1.0, "flexible", relaxation_time=100.0, compressibility=0.1, interval=3
    ),
)
RUN = SimulationConfig(
    steps=40,
    precision="float64",
    chunk=10,
    trajectory_interval=10,
    thermo_interval=5,
    restart_interval=20,
)
STRUCTURE = silicon.diamond((1, 1, 1), rattle=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("npt")
    return output, engine.run(silicon.potential(), STRUCTURE, NPT, RUN, output)


def test_files_hold_the_moving_cell(finished):
    output, result = finished
    frames = ase.io.read(output / "trajectory.extxyz", index=":")
    volumes = [frame.get_volume() for frame in frames]
    assert len(set(volumes)) == 5
    np.testing.assert_allclose(frames[-1].cell.array, result.structure.cell, atol=1e-12)
    columns = thermo.read(output / "thermo.jsonl")
    np.testing.assert_allclose(columns["volume_A3"][1::2], volumes[1:], rtol=1e-12)
    np.testing.assert_allclose(columns["b_A"][-1], frames[-1].cell.lengths()[1], rtol=1e-12)
    assert "conserved_eV" not in columns  # there is none


def test_the_pressure_is_that_of_the_stress_predicted(finished):
    output, result = finished
    prediction = mj.predict(silicon.potential(), [result.structure], precision="float64")[0]
    labels = result.structure.labels
    np.testing.assert_allclose(labels.stress, prediction.stress, atol=1e-10)
    np.testing.assert_allclose(labels.forces, prediction.forces, atol=1e-9)
    volume = abs(np.linalg.det(result.structure.cell))
    masses = np.array(elements.MASSES)[result.structure.atomic_numbers]
    kinetic = 0.5 * np.sum(result.momenta**2 / masses[:, None])
    pressure = 2.0 * kinetic / (3.0 * volume) - np.trace(prediction.stress) / 3.0
    last = thermo.read(output / "thermo.jsonl")["pressure_GPa"][-1]
    np.testing.assert_allclose(last, pressure / units.GPA, atol=1e-9)


def test_a_resumed_simulation_is_bit_identical(finished, tmp_path):
    output, _ = finished
    shorter = dataclasses.replace(RUN, steps=25)
    engine.run(silicon.potential(), STRUCTURE, NPT, shorter, tmp_path)
    resume = tmp_path / "restart.npz"
    engine.run(silicon.potential(), STRUCTURE, NPT, RUN, tmp_path, resume=resume)
    for name in ("trajectory.extxyz", "thermo.jsonl"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()
    with np.load(resume) as resumed, np.load(output / "restart.npz") as whole:
        for key in set(whole) - {"header"}:
            np.testing.assert_array_equal(resumed[key], whole[key])
    isotropic = dataclasses.replace(NPT, barostat=BarostatConfig())
    with pytest.raises(UserError, match="csvr with flexible cell"):
        engine.run(silicon.potential(), STRUCTURE, isotropic, RUN, tmp_path, resume=resume)


def test_lists_grow_when_the_cell_shrinks(tmp_path, monkeypatch):
    """Bins chosen for the first cell become too small: other bins, and the chunk is replayed."""
    flags, make_room = [], dynamics.make_room

    def watched(state, overflowed):
        flags.append(int(device.flags(overflowed)))
        return make_room(state, overflowed)

    monkeypatch.setattr(dynamics, "make_room", watched)
    barostat = BarostatConfig(2.0, relaxation_time=100.0, compressibility=0.5, interval=1)
    ensemble = EnsembleConfig(kind="csvr", temperature=30.0, barostat=barostat)
    settings = dataclasses.replace(RUN, steps=12, chunk=12, trajectory_interval=12, timestep=2.0)
    start = argon.fcc(lattice=5.9)
    result = engine.run(argon.potential(), start, ensemble, settings, tmp_path)
    assert any(flag & device.Flag.CELL for flag in flags)
    assert result.growths == len(flags)
    shrunk = abs(np.linalg.det(result.structure.cell) / np.linalg.det(start.cell))
    assert shrunk < 0.88
    prediction = mj.predict(argon.potential(), [result.structure], precision="float64")[0]
    np.testing.assert_allclose(result.structure.labels.energy, prediction.energy, atol=1e-9)
    np.testing.assert_allclose(result.structure.labels.forces, prediction.forces, atol=1e-9)


def test_fixed_atoms_stay_and_keep_their_forces(tmp_path):
    still = dataclasses.replace(RUN, supercell=(2, 1, 1), fixed_atoms=(0, 3))
    hot = EnsembleConfig(
        kind="langevin", temperature=Schedule((0.0, 20.0), (300.0, 900.0), "stepwise")
    )
    result = engine.run(silicon.potential(), STRUCTURE, hot, still, tmp_path)
    moved = np.abs(result.structure.positions[:8] - STRUCTURE.positions).max(axis=1)
    np.testing.assert_allclose(moved[[0, 3]], 0.0, atol=1e-14)  # wrapping rounds
    np.testing.assert_array_equal(result.momenta[[0, 3, 8, 11]], 0.0)
    assert np.all(np.delete(moved, [0, 3]) > 1e-3)
    assert np.all(np.abs(result.structure.labels.forces[[0, 3]]).max(axis=1) > 1e-3)
    kinetic = thermo.read(tmp_path / "thermo.jsonl")
    ratio = 2.0 * kinetic["kinetic_eV"] / (36 * units.BOLTZMANN * kinetic["temperature_K"])
    np.testing.assert_allclose(ratio, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed_atoms": (8,)}, "got atom 8 of a structure with 8"),
        ({"fixed_elements": ("C",)}, "got C; expected elements of the structure: Si"),
        ({"fixed_elements": ("Si",)}, "every atom is fixed"),
        ({"fixed_atoms": (1,)}, "fixed atoms, which cannot follow"),
    ],
)
def test_impossible_choices_are_refused(changes, message, tmp_path):
    settings = dataclasses.replace(RUN, **changes)
    with pytest.raises(UserError, match=message):
        engine.run(silicon.potential(), STRUCTURE, NPT, settings, tmp_path)


def test_config_takes_numbers_and_schedules():
    ramp = {"times": [0, 1000], "values": [300, 600]}
    plain = {"kind": "csvr", "temperature": ramp, "barostat": {"pressure": 1, "cell": "axes"}}
    parsed = configs.parse(EnsembleConfig, plain, "ensemble")
    assert parsed.temperature == Schedule((0.0, 1000.0), (300.0, 600.0))
    assert parsed.first_temperature == 300.0
    assert parsed.barostat == BarostatConfig(1.0, "axes")
    with pytest.raises(UserError, match="did you mean 'pressure'"):
        configs.parse(EnsembleConfig, {"kind": "csvr", "barostat": {"presure": 1}}, "ensemble")
    with pytest.raises(UserError, match="isotropic"):
        configs.parse(EnsembleConfig, {"kind": "csvr", "barostat": {"cell": "cubic"}}, "ensemble")
    wrong = {"kind": "csvr", "temperature": {"times": [0, 1], "values": [300]}}
    with pytest.raises(UserError, match="2 times and 1 values"):
        configs.parse(EnsembleConfig, wrong, "ensemble")
    with pytest.raises(UserError, match="temperature"):
        configs.parse(EnsembleConfig, {"kind": "csvr", "temperature": -3.0}, "ensemble")


def test_a_cold_crystal_has_the_volume_of_its_equation_of_state(tmp_path):
    """At 0.2 K and two pressures; thermal expansion is 2e-4 of the volume there."""
    lattices = np.linspace(5.0, 5.5, 11)
    crystals = [argon.fcc(lattice=a) for a in lattices]
    predictions = mj.predict(argon.potential(), crystals, precision="float64")
    pressures = np.array([-np.trace(p.stress) / 3.0 for p in predictions]) / units.GPA
    curve = np.polynomial.Polynomial.fit(pressures, lattices, 8)
    for pressure in (0.0, 0.1):
        barostat = BarostatConfig(
            pressure, "axes", relaxation_time=300.0, compressibility=0.3, interval=5
        )
        ensemble = EnsembleConfig(kind="csvr", temperature=0.2, barostat=barostat)
        settings = SimulationConfig(
            steps=2000, timestep=3.0, precision="float64", chunk=500, trajectory_interval=0
        )
        start = argon.fcc(lattice=float(curve(pressure)) * 1.01, rattle=0.005)
        output = tmp_path / str(pressure)
        engine.run(argon.potential(), start, ensemble, settings, output)
        columns = thermo.read(output / "thermo.jsonl")
        mean = columns["volume_A3"][100:].mean()
        np.testing.assert_allclose(mean, (2.0 * curve(pressure)) ** 3, rtol=6e-4)
