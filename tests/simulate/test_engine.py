"""Simulations from a config to files: contents, restarts, stops, interruption, starts."""

import dataclasses
import json
import os
import signal

import ase.io
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import config as configs
from mlip_jax.config import UserError
from mlip_jax.graph import AtomOutputs
from mlip_jax.simulate import engine, progress, thermo, trajectory
from mlip_jax.simulate.settings import EnsembleConfig, SafetyConfig, SimulationConfig
from mlip_jax.simulate.system import replicate
from tests.simulate.silicon import StillingerWeber, diamond, potential

pytestmark = pytest.mark.slow  # every simulation compiles its own chunk

NVT = EnsembleConfig(kind="langevin", temperature=600.0)
RUN = SimulationConfig(
    steps=40,
    precision="float64",
    chunk=10,
    trajectory_interval=10,
    thermo_interval=5,
    restart_interval=20,
)
STRUCTURE = diamond((1, 1, 1), rattle=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("md")
    return output, engine.run(potential(), STRUCTURE, NVT, RUN, output)


def test_files_hold_the_simulation(finished):
    output, result = finished
    assert result.steps == 40
    assert result.stop_reason == ""
    assert result.interrupted is None
    frames = ase.io.read(output / "trajectory.extxyz", index=":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(frames[-1].positions, result.structure.positions, atol=1e-12)
    np.testing.assert_allclose(frames[-1].get_momenta(), result.momenta, atol=1e-12)
    columns = thermo.read(output / "thermo.jsonl")
    np.testing.assert_array_equal(columns["step"], np.arange(5, 41, 5))
    assert (output / "thermo.png").stat().st_size > 1000
    # Reference energies are added on the host: -100 eV for each of the 8 atoms.
    assert columns["potential_eV"][-1] == pytest.approx(frames[-1].get_potential_energy())
    assert -840.0 < columns["potential_eV"][-1] < -830.0
    kinetic = frames[-1].get_kinetic_energy()  # ASE's momenta and masses
    assert columns["kinetic_eV"][-1] == pytest.approx(kinetic, rel=1e-3)


def test_a_resumed_simulation_is_bit_identical(finished, tmp_path):
    """Stopped after 25 steps, within a chunk, and resumed: files and last frame are the same."""
    output, _ = finished
    engine.run(potential(), STRUCTURE, NVT, dataclasses.replace(RUN, steps=25), tmp_path)
    with (tmp_path / "trajectory.extxyz").open("a") as file:
        file.write("a frame that was written after the restart file\n")
    resume = tmp_path / "restart.npz"
    engine.run(potential(), STRUCTURE, NVT, RUN, tmp_path, resume=resume)
    for name in ("trajectory.extxyz", "thermo.jsonl"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()
    with np.load(tmp_path / "restart.npz") as resumed, np.load(output / "restart.npz") as whole:
        for key in set(whole) - {"header"}:
            np.testing.assert_array_equal(resumed[key], whole[key])


def test_restart_of_another_simulation_is_refused(finished, tmp_path):
    output, _ = finished
    resume = output / "restart.npz"
    with pytest.raises(UserError, match="langevin"):
        engine.run(potential(), STRUCTURE, EnsembleConfig(), RUN, tmp_path, resume=resume)
    with pytest.raises(UserError, match="another structure"):
        engine.run(potential(), diamond(), NVT, RUN, tmp_path, resume=resume)
    (tmp_path / "damaged.npz").write_bytes(resume.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        engine.run(potential(), STRUCTURE, NVT, RUN, tmp_path, resume=tmp_path / "damaged.npz")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="without a header"):
        engine.run(potential(), STRUCTURE, NVT, RUN, tmp_path, resume=tmp_path / "arrays.npz")
    slower = dataclasses.replace(RUN, timestep=0.5)
    with pytest.raises(UserError, match=r"timestep 1\.0 fs .* 0\.5 fs"):
        engine.run(potential(), STRUCTURE, NVT, slower, tmp_path, resume=resume)
    with pytest.raises(UserError, match=r"thermo\.jsonl: has 0 bytes"):
        thermo.ThermoWriter(tmp_path / "thermo.jsonl", 100)
    (tmp_path / "trajectory.extxyz").write_text("8\n")
    with pytest.raises(UserError, match=r"trajectory\.extxyz: has 2 bytes; expected the 100"):
        trajectory.open_writer(tmp_path / "trajectory.extxyz", 100)


def test_a_safety_stop_saves_the_frame_and_says_why(tmp_path):
    cautious = dataclasses.replace(RUN, safety=SafetyConfig(max_temperature=200.0))
    result = engine.run(potential(), STRUCTURE, NVT, cautious, tmp_path)
    assert "temperature" in result.stop_reason
    assert "stopped.extxyz" in result.stop_reason
    frame = ase.io.read(tmp_path / "stopped.extxyz")
    assert frame.info["step"] == result.steps < 40
    assert frame.get_kinetic_energy() / 8 > 1.5 * 8.6e-5 * 200.0 * 0.9
    graded = dataclasses.replace(RUN, safety=SafetyConfig(max_grade=1.0))
    with pytest.raises(UserError, match="no extrapolation grade"):
        engine.run(potential(), STRUCTURE, NVT, graded, tmp_path)


def test_close_atoms_and_numbers_that_are_none_stop_too(tmp_path):
    close = dataclasses.replace(RUN, safety=SafetyConfig(min_distance=2.3))
    result = engine.run(potential(), STRUCTURE, NVT, close, tmp_path / "close")
    assert "two atoms came within 2." in result.stop_reason
    limit = float(STRUCTURE.positions[7, 0]) + 0.01
    broken = dataclasses.replace(potential(), model=Broken(limit=limit))
    hot = dataclasses.replace(NVT, temperature=1500.0)
    with jax.debug_nans(False):
        result = engine.run(broken, STRUCTURE, hot, RUN, tmp_path / "broken")
    assert "no longer finite" in result.stop_reason
    assert len(ase.io.read(tmp_path / "broken/stopped.extxyz")) == 8


class Broken(StillingerWeber):
    """Its energy is no number once the last atom has gone beyond a limit."""

    limit: float = 0.0

    @nn.compact
    def __call__(self, graph):
        outputs = super().__call__(graph)
        beyond = graph.positions[7, 0] > self.limit
        return AtomOutputs(jnp.where(beyond, jnp.nan, outputs.energies))


def test_interruption_leaves_a_trajectory_and_a_restart(tmp_path, monkeypatch):
    """SIGINT during the second chunk: it is finished and written; the rest can follow."""
    chunks = []
    update = progress.Progress.update

    def interrupt(self, *arguments):
        chunks.append(arguments)
        if len(chunks) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, *arguments)

    monkeypatch.setattr(progress.Progress, "update", interrupt)
    result = engine.run(potential(), STRUCTURE, NVT, RUN, tmp_path)
    assert result.interrupted == signal.SIGINT
    assert result.steps == 20
    assert len(ase.io.read(tmp_path / "trajectory.extxyz", index=":")) == 3
    result = engine.run(potential(), STRUCTURE, NVT, RUN, tmp_path, resume=tmp_path / "restart.npz")
    assert result.steps == 40


def test_a_simulation_starts_from_any_frame(finished, tmp_path):
    output, _ = finished
    structure, momenta = trajectory.read_frame(output / "trajectory.extxyz", 2)
    assert momenta is not None
    again = dataclasses.replace(RUN, velocities="structure", steps=20, trajectory_format="traj")
    engine.run(potential(), structure, EnsembleConfig(), again, tmp_path, momenta=momenta)
    frames = ase.io.read(tmp_path / "trajectory.traj", index=":")
    assert len(frames) == 3
    np.testing.assert_allclose(frames[0].get_momenta(), momenta, atol=1e-12)
    energies = [frame.get_total_energy() for frame in frames]
    assert np.ptp(energies) < 0.01  # NVE goes on from the thermostatted state
    with pytest.raises(UserError, match="frame 17"):
        trajectory.read_frame(output / "trajectory.extxyz", 17)
    with pytest.raises(UserError, match="no momenta"):
        engine.run(potential(), structure, EnsembleConfig(), again, tmp_path)


def test_config_is_strict():
    parsed = configs.parse(
        SimulationConfig, {"duration": 100.0, "timestep": 0.5, "supercell": [2, 1, 1]}, "simulation"
    )
    assert parsed.num_steps == 200
    assert parsed.supercell == (2, 1, 1)
    with pytest.raises(UserError, match="timestep"):
        configs.parse(SimulationConfig, {"steps": 10, "timstep": 1.0}, "simulation")
    with pytest.raises(UserError, match="exactly one"):
        configs.parse(SimulationConfig, {"steps": 10, "duration": 10.0}, "simulation")
    with pytest.raises(UserError, match="positive temperature"):
        configs.parse(EnsembleConfig, {"kind": "langevin", "temperature": 0.0}, "ensemble")


@pytest.mark.parametrize(
    ("chunk", "interval", "length"), [(100, 100, 100), (100, 250, 50), (100, 7, 7), (100, 0, 100)]
)
def test_frames_fall_on_ends_of_chunks(chunk, interval, length):
    config = SimulationConfig(steps=1, chunk=chunk, trajectory_interval=interval)
    assert config.chunk_length == length


def test_impossible_structures_are_refused(tmp_path):
    flat = dataclasses.replace(STRUCTURE, cell=np.zeros((3, 3)))
    with pytest.raises(UserError, match="linearly independent"):
        engine.run(potential(), flat, NVT, RUN, tmp_path)
    carbon = dataclasses.replace(STRUCTURE, atomic_numbers=np.full(8, 6))
    with pytest.raises(UserError, match="does not know"):
        engine.run(potential(), carbon, NVT, RUN, tmp_path)
    slab = dataclasses.replace(STRUCTURE, pbc=np.array([True, True, False]))
    with pytest.raises(UserError, match="copies"):
        engine.run(potential(), slab, NVT, dataclasses.replace(RUN, supercell=(1, 1, 2)), tmp_path)


def test_a_supercell_has_the_charge_and_the_spins_of_its_copies():
    spins = np.random.default_rng(0).normal(size=(8, 3))
    charged = dataclasses.replace(STRUCTURE, total_charge=-1.5, spins=spins)
    large = replicate(charged, (2, 1, 3))
    assert large.total_charge == -9.0
    assert large.spins is not None
    np.testing.assert_array_equal(large.spins.reshape(6, 8, 3), np.tile(spins, (6, 1, 1)))


def test_thermo_lines_are_json(finished):
    output, _ = finished
    for line in (output / "thermo.jsonl").read_text().splitlines():
        assert json.loads(line)["step"] % 5 == 0
