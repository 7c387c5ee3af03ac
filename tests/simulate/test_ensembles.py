"""Energies and volumes at two temperatures and pressures have the right ratio of densities.

Shirts (2013), J. Chem. Theory Comput. 9, 909: whatever the density of states, the kinetic energies
K at two temperatures obey `ln p_2(K) / p_1(K) = const - (1/kT_2 - 1/kT_1) K`, and the volumes at
two pressures `ln p_2(V) / p_1(V) = const - (p_2 - p_1) V / kT`. The slope is estimated with maximum
likelihood from decorrelated samples; bounds are those of 99 %.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import ase.io
import jax
import numpy as np
import pytest

import mlip_jax as mj
from mlip_jax import units
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.simulate import dynamics, ensembles, system
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig
from mlip_jax.simulate.watch import Limits
from tests.simulate import argon, silicon
from tests.simulate.test_thermostats import QUANTILE, correlation_time

COLD, WARM = 60.0, 66.0  # K
LOW, HIGH = 0.0, 0.05  # GPa
SILICON_PBE = Path(__file__).resolve().parents[2] / "experiments/silicon_pbe/train.extxyz.gz"
DOUBLE = np.dtype("float64")


def log_ratio_slope(first, second):
    """Slope b of `ln p_2(x) / p_1(x) = a + b x` and its standard error, by logistic regression."""
    x = np.concatenate([first, second])
    centre, scale = x.mean(), x.std()
    design = np.stack([np.ones(len(x)), (x - centre) / scale], axis=1)
    second_one = np.repeat([0.0, 1.0], [len(first), len(second)])
    coefficients = np.zeros(2)
    for _ in range(50):
        probability = 1.0 / (1.0 + np.exp(-design @ coefficients))
        weight = probability * (1.0 - probability)
        information = design.T @ (weight[:, None] * design)
        coefficients += np.linalg.solve(information, design.T @ (second_one - probability))
    error = np.sqrt(np.linalg.inv(information)[1, 1])
    return coefficients[1] / scale, error / scale


def decorrelated(series):
    """Every n-th value, with n the correlation time of the series."""
    return series[:: int(np.ceil(correlation_time(series)))]


def check_slope(first, second, expected):
    slope, error = log_ratio_slope(decorrelated(first), decorrelated(second))
    assert abs(expected) > 4.0 * error  # the test can tell
    assert abs(slope - expected) < QUANTILE * error


def test_slope_of_known_distributions():
    """Of normal distributions of one variance s²: the distance of the means over s²."""
    rng = np.random.default_rng(0)
    slope, error = log_ratio_slope(rng.normal(0.0, 2.0, 20000), rng.normal(1.0, 2.0, 20000))
    assert abs(slope - 0.25) < QUANTILE * error
    assert error < 0.01


class Crystal(NamedTuple):
    """What is sampled, and its time step [fs]."""

    potential: Potential
    structure: Structure
    timestep: float


ARGON = Crystal(argon.potential(), argon.fcc(rattle=0.1), 4.0)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """8 silicon atoms with a potential that is fitted to DFT, linear in symmetry functions."""
    folder = tmp_path_factory.mktemp("learned")
    frames = ase.io.read(SILICON_PBE, index=":")
    crystals = [f for f in frames if f.info["config_type"].startswith(("diamond", "isolated"))]
    ase.io.write(folder / "train.extxyz", crystals)
    config = {
        "data": {
            "train": str(folder / "train.extxyz"),
            "valid": 0.0,
            "labels": {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"},
        },
        "model": {
            "local": {
                "descriptor": {"acsf": {"cutoff": 5.0, "num_radial": 8, "num_angular": 4}},
                "regressor": {"linear": {}},
            }
        },
        "loss": {"energy": {"weight": 5.0}, "forces": {"weight": 1.0}, "stress": {"weight": 10.0}},
        "solver": {"name": "ridge", "alpha": 1e-8, "posterior": False, "grades": False},
        "training": {"precision": "float64", "devices": 1, "report": False},
    }
    potential = mj.train.fit(mj.train.parse(config), folder / "run", progress=False)
    return Crystal(potential, silicon.diamond((1, 1, 1)), 2.0)


def sampled(config, steps, discard, crystal=ARGON, chunk=2000):
    """Kinetic energies [eV] and volumes [Å^3]."""
    potential, structure, timestep = crystal
    prepared = system.prepare(potential, structure, "float64", 1.0)
    integrator = ensembles.build(config, timestep, structure.num_atoms, DOUBLE)
    compiled = dynamics.build(prepared.predict, integrator, prepared.template, chunk)
    state = compiled.init(
        prepared.variables,
        jax.random.PRNGKey(3),
        ensembles.maxwell_boltzmann(3, prepared.masses, config.first_temperature),
        prepared.masses[:, None],
        prepared.neighbors,
        prepared.images,
    )
    kinetic, volume = [], []
    for _ in range(steps // chunk):
        result, _ = dynamics.advance_chunk(compiled, prepared.variables, state, chunk, Limits())
        assert int(result.stop) == 0
        state = result.state
        kinetic.append(np.asarray(result.records.kinetic))
        volume.append(np.abs(np.linalg.det(np.asarray(result.records.cell))))
    return np.concatenate(kinetic)[discard:], np.concatenate(volume)[discard:]


def difference_of_betas(cold=COLD, warm=WARM):
    return 1.0 / (units.BOLTZMANN * warm) - 1.0 / (units.BOLTZMANN * cold)


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("barostat", [None, BarostatConfig(compressibility=0.5)])
def test_kinetic_energies_at_two_temperatures(barostat):
    settings = EnsembleConfig(kind="csvr", barostat=barostat)
    runs = [
        sampled(dataclasses.replace(settings, temperature=kelvin), 30000, 2000)[0]
        for kelvin in (COLD, WARM)
    ]
    check_slope(*runs, -difference_of_betas())


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cell"), [("csvr", "isotropic"), ("csvr", "axes"), ("langevin", "flexible")]
)
def test_volumes_at_two_pressures(kind, cell):
    barostat = BarostatConfig(LOW, cell, relaxation_time=200.0, compressibility=0.5)
    low = EnsembleConfig(kind=kind, temperature=COLD, friction=0.005, barostat=barostat)
    high = dataclasses.replace(low, barostat=dataclasses.replace(barostat, pressure=HIGH))
    volumes = [sampled(config, 40000, 4000)[1] for config in (low, high)]
    check_slope(*volumes, -(HIGH - LOW) * units.GPA / (units.BOLTZMANN * COLD))


@pytest.mark.optimized
@pytest.mark.slow
def test_a_learned_potential_at_two_temperatures_and_pressures(learned):
    barostat = BarostatConfig(relaxation_time=100.0, interval=5)
    low = EnsembleConfig("csvr", 300.0, relaxation_time=50.0, barostat=barostat)
    warm = dataclasses.replace(low, temperature=330.0)
    dense = dataclasses.replace(low, barostat=dataclasses.replace(barostat, pressure=2.0))
    kinetic, volumes = zip(
        *[sampled(config, 30000, 2000, learned) for config in (low, warm, dense)], strict=True
    )
    check_slope(*kinetic[:2], -difference_of_betas(300.0, 330.0))
    check_slope(volumes[0], volumes[2], -2.0 * units.GPA / (units.BOLTZMANN * 300.0))
