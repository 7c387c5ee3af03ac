"""Melting by coexistence: the order of slabs, the known line, and a run from beginning to end."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.simulate import thermo
from mlip_jax.simulate.system import replicate

FOLDER = Path(__file__).parents[2] / "experiments/melting"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def melting():
    return load("melting")


@pytest.fixture(scope="module")
def argon():
    return load("lennard_jones")


def test_half_a_crystal_has_order_in_half_of_its_slabs(melting, argon):
    copies = (4, 4, 6)
    crystal = replicate(argon.crystal(), copies)
    rng = np.random.default_rng(0)
    upper = crystal.positions[:, 2] > 0.5 * crystal.cell[2, 2] - 1e-6
    crystal.positions[:] += rng.normal(0.0, 0.1, crystal.positions.shape)
    crystal.positions[upper, :2] = rng.uniform(0.0, crystal.cell[0, 0], (upper.sum(), 2))
    found = melting.order(crystal, copies)
    assert np.all(found[:3] > 0.6)
    assert np.all(found[3:] < 0.5)


def test_the_line_passes_through_the_triple_point(argon):
    """0.687 in units of ε/k: Agrawal & Kofke (1995)."""
    reduced = argon.melting_temperature(0.0) * units.BOLTZMANN / argon.EPSILON
    assert reduced == pytest.approx(0.687, abs=0.002)
    assert argon.melting_temperature(0.02) > argon.melting_temperature(0.0) + 3.0


@pytest.mark.optimized
@pytest.mark.slow
def test_a_short_run_melts_half_and_is_written(melting, argon, tmp_path):
    settings = melting.Settings(
        95.0, copies=(3, 3, 6), timestep=8.0, prepare=400, steps=200, melt=6.0, compressibility=0.5
    )
    found = melting.coexistence(argon.potential(), argon.crystal(), settings, tmp_path)
    assert 0.1 < found["crystal_at_the_end"] < 0.9
    assert found["energy_drift_meV_per_atom"] < 0.1
    record = json.loads((tmp_path / "melting.json").read_text())
    columns = thermo.read(tmp_path / "5_coexist" / "thermo.jsonl")
    late = columns["temperature_K"][len(columns["temperature_K"]) // 2 :]
    assert record["temperature_K"] == pytest.approx(np.mean(late), rel=1e-9)
    assert (tmp_path / "melting.png").stat().st_size > 10000
