"""Energies and volumes at two temperatures and pressures have the right ratio of densities.

Shirts (2013), J. Chem. Theory Comput. 9, 909: whatever the density of states, the kinetic energies
K at two temperatures obey `ln p_2(K) / p_1(K) = const - (1/kT_2 - 1/kT_1) K`, and the volumes at
two pressures `ln p_2(V) / p_1(V) = const - (p_2 - p_1) V / kT`. The slope is estimated with maximum
likelihood from decorrelated samples; bounds are those of 99 %.
"""

import dataclasses

import jax
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.simulate import dynamics, ensembles, system
from mlip_jax.simulate.dynamics import Limits
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig
from tests.simulate import argon
from tests.simulate.test_thermostats import QUANTILE, correlation_time

COLD, WARM = 60.0, 66.0  # K
LOW, HIGH = 0.0, 0.05  # GPa
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


def sampled(config, steps, discard, chunk=2000):
    """Kinetic energies [eV] and volumes [Å^3] of 32 argon atoms."""
    structure = argon.fcc(rattle=0.1)
    prepared = system.prepare(argon.potential(), structure, "float64", 1.0)
    integrator = ensembles.build(config, 4.0, structure.num_atoms, DOUBLE)
    compiled = dynamics.build(prepared.predict, integrator, prepared.template, chunk)
    state = compiled.init(
        prepared.variables,
        jax.random.PRNGKey(3),
        ensembles.maxwell_boltzmann(3, prepared.masses, COLD),
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


def difference_of_betas():
    return 1.0 / (units.BOLTZMANN * WARM) - 1.0 / (units.BOLTZMANN * COLD)


@pytest.mark.slow
@pytest.mark.parametrize("barostat", [None, BarostatConfig(compressibility=0.5)])
def test_kinetic_energies_at_two_temperatures(barostat):
    settings = EnsembleConfig(kind="csvr", barostat=barostat)
    runs = [
        sampled(dataclasses.replace(settings, temperature=kelvin), 30000, 2000)[0]
        for kelvin in (COLD, WARM)
    ]
    check_slope(*runs, -difference_of_betas())


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
