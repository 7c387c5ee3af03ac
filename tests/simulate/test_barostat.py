"""Stochastic cell rescaling and velocity rescaling by themselves, on systems solved on paper."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.simulate import barostat, csvr, ensembles, schedules
from mlip_jax.simulate.integrators import Surroundings, kinetic_energy
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig, Schedule

DOUBLE = np.dtype("float64")
KELVIN = 300.0
KT = units.BOLTZMANN * KELVIN
ATOMS = 6
PRESSURE = 0.1  # GPa
REPLICAS = 192


def trajectories(config, energy, cell, steps, every, drift_interval=0):
    """Cells [replicas samples 3 3] of free atoms whose energy depends on the cell alone."""
    ensemble = ensembles.build(config, 1.0, ATOMS, DOUBLE, drift_interval=drift_interval)

    def virial(cell):
        def strained(strain):
            return energy(cell @ (jnp.eye(3) + 0.5 * (strain + strain.T)))

        return -jax.grad(strained)(jnp.zeros((3, 3)))

    def step(carry, _):
        state, cell, number = carry
        state, cell = ensemble.before(state, Surroundings(number, cell, virial(cell)))
        state = ensemble.after(state, Surroundings(number, cell, virial(cell)))
        return (state, cell, number + 1), None

    def sample(carry, _):
        carry, _ = jax.lax.scan(step, carry, None, length=every)
        return carry, carry[1]

    def run(key, momenta):
        zeros, masses = jnp.zeros((ATOMS, 3)), jnp.full((ATOMS, 1), 40.0)
        start = ensemble.init(key, zeros, momenta, zeros, masses)
        carry = (start, jnp.asarray(cell), jnp.zeros((), jnp.int32))
        return jax.lax.scan(sample, carry, None, length=steps // every)[1]

    keys = jax.random.split(jax.random.PRNGKey(0), REPLICAS)
    masses = np.full(ATOMS, 40.0)
    momenta = [ensembles.maxwell_boltzmann(i, masses, KELVIN) for i in range(REPLICAS)]
    return np.asarray(jax.jit(jax.vmap(run))(keys, jnp.asarray(momenta)))


def ensemble(kind, cell, **changes):
    settings = BarostatConfig(pressure=PRESSURE, cell=cell, relaxation_time=400.0, interval=2)
    settings = dataclasses.replace(settings, compressibility=1.0 / PRESSURE, **changes)
    return EnsembleConfig(kind=kind, temperature=KELVIN, friction=0.02, barostat=settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cell", "drift_interval"),
    [
        ("csvr", "isotropic", 0),
        ("langevin", "isotropic", 0),
        ("langevin", "axes", 1),
        ("langevin", "flexible", 0),
    ],
)
def test_an_ideal_gas_has_its_volumes(kind, cell, drift_interval):
    """The density of volumes is V^N exp(-p V / kT): a gamma distribution with N + 1."""
    edge = np.cbrt((ATOMS + 1) * KT / (PRESSURE * units.GPA))
    cells = trajectories(
        ensemble(kind, cell), lambda h: 0.0 * h[0, 0], edge * np.eye(3), 8000, 2000, drift_interval
    )
    volumes = np.abs(np.linalg.det(cells[:, 1:])).ravel()  # 2000 steps decorrelate (5 times)
    scale = KT / (PRESSURE * units.GPA)
    assert stats.kstest(volumes, stats.gamma(ATOMS + 1, scale=scale).cdf).pvalue > 0.01
    if drift_interval or kind == "csvr":  # the bound tells a system of one atom less
        assert stats.kstest(volumes, stats.gamma(ATOMS, scale=scale).cdf).pvalue < 0.01


@pytest.mark.slow
def test_a_stiff_cell_has_the_strains_of_equipartition():
    """Of an energy κ/2 Σ ε_ij²: variances kT/κ of the diagonal, kT/2κ of the other strains."""
    edge, stiffness = 10.0, 2000.0 * KT

    def energy(h):
        return stiffness / 8.0 * jnp.sum((h @ h.T / edge**2 - jnp.eye(3)) ** 2)

    # Of a pressure that the atoms balance on average; relaxation in about 100 steps.
    pressure = ATOMS * KT / edge**3 / units.GPA
    config = ensemble("langevin", "flexible", interval=1, relaxation_time=100.0)
    settings = dataclasses.replace(
        config.barostat, pressure=pressure, compressibility=3.0 * edge**3 * units.GPA / stiffness
    )
    config = dataclasses.replace(config, barostat=settings)
    cells = trajectories(config, energy, edge * np.eye(3), 8000, 1000)[:, 1:]
    metric = cells @ np.swapaxes(cells, -1, -2) / edge**2
    strains = 0.5 * (metric - np.eye(3)).reshape(-1, 3, 3)
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        variance = KT / stiffness * (1.0 if i == j else 0.5)
        chi = np.sum(strains[:, i, j] ** 2) / variance
        low, high = stats.chi2(len(strains)).ppf([0.005, 0.995])
        assert low < chi < high


def test_deformations_are_exact_and_preserve_phase_space():
    rng = np.random.default_rng(0)
    strain = rng.normal(0.0, 0.05, (3, 3))
    strain = strain + strain.T
    values, vectors = np.linalg.eigh(strain)
    expected = vectors @ np.diag(np.exp(values)) @ vectors.T
    np.testing.assert_allclose(
        barostat.growth(jnp.asarray(strain)), expected - np.eye(3), atol=1e-9
    )
    positions, momenta, cell = jnp.asarray(rng.normal(size=(3, 4, 3)))
    moved = barostat.deform(positions, momenta, cell[:3], jnp.asarray(strain))
    np.testing.assert_allclose(np.sum(moved[0] * moved[1]), np.sum(positions * momenta))
    np.testing.assert_allclose(
        moved[0] @ np.linalg.inv(moved[2]), positions @ np.linalg.inv(cell[:3])
    )


@pytest.mark.parametrize("freedom", [3, 30])
def test_rescaled_kinetic_energies_are_canonical(freedom):
    """Many steps of many replicas: a gamma distribution, from a start that is too hot."""
    decay, kinetic = np.exp(-0.2), jnp.full(4000, 3.0 * freedom * KT)

    def step(kinetic, key):
        keys = jax.random.split(key, len(kinetic))
        factors = jax.vmap(lambda k, e: csvr.scale_factor(k, e, KT, decay, freedom))(keys, kinetic)
        return kinetic * factors**2, jnp.mean(kinetic)

    keys = jax.random.split(jax.random.PRNGKey(0), 60)
    kinetic, means = jax.lax.scan(step, kinetic, keys)
    assert stats.kstest(kinetic, stats.gamma(freedom / 2, scale=KT).cdf).pvalue > 0.01
    # The mean relaxes exponentially (eq. 7): its excess falls by the factor exp(-0.2) each step.
    excess = np.asarray(means)[:5] / (0.5 * freedom * KT) - 1.0
    np.testing.assert_allclose(excess, 5.0 * decay ** np.arange(5), rtol=0.1)


def test_momenta_at_rest_stay():
    factor = csvr.scale_factor(jax.random.PRNGKey(0), jnp.zeros(()), KT, np.exp(-0.01), 9)
    assert np.isfinite(factor)


@pytest.mark.parametrize(
    ("interpolation", "values"),
    [("linear", [300, 300, 450, 600, 300, 300]), ("stepwise", [300, 300, 300, 600, 300, 300])],
)
def test_schedules(interpolation, values):
    schedule = Schedule((10.0, 20.0, 30.0), (300.0, 600.0, 300.0), interpolation)
    at = schedules.at_step(schedule, 1.0, 0.5, DOUBLE)
    steps = np.array([0, 20, 30, 40, 60, 1000])
    found = [float(jax.jit(at)(jnp.asarray(step, jnp.int32))) for step in steps]
    np.testing.assert_allclose(found, values)


def test_impossible_configs_are_refused():
    settings = BarostatConfig()
    with pytest.raises(UserError, match="barostat: got one for nve"):
        EnsembleConfig(kind="nve", barostat=settings)
    with pytest.raises(UserError, match="got a schedule for nve"):
        EnsembleConfig(kind="nve", temperature=Schedule((0.0, 1.0), (1.0, 2.0)))
    with pytest.raises(UserError, match="positive temperature"):
        EnsembleConfig(kind="csvr", temperature=Schedule((0.0, 1.0), (300.0, 0.0)))
    with pytest.raises(UserError, match="2 times and 1 values"):
        Schedule((0.0, 1.0), (300.0,))
    with pytest.raises(UserError, match="later"):
        Schedule((1.0, 1.0), (300.0, 200.0))
    cell, periodic = 10.0 * np.eye(3), np.ones(3, bool)
    with pytest.raises(UserError, match="three periodic directions"):
        barostat.check_cell(settings, cell, np.array([True, True, False]), any_fixed=False)
    with pytest.raises(UserError, match="fixed atoms"):
        barostat.check_cell(settings, cell, periodic, any_fixed=True)
    skew = cell.copy()
    skew[1, 0] = 1.0
    with pytest.raises(UserError, match="along x, y and z"):
        barostat.check_cell(BarostatConfig(cell="axes"), skew, periodic, any_fixed=False)
    with pytest.raises(UserError, match="got 5 for langevin"):
        ensembles.build(EnsembleConfig(kind="langevin"), 1.0, 4, DOUBLE, drift_interval=5)
    mobile = np.array([True, False])
    with pytest.raises(UserError, match="with fixed atoms"):
        ensembles.build(EnsembleConfig(), 1.0, 2, DOUBLE, mobile=mobile, drift_interval=5)


def test_degrees_of_freedom():
    def freedom(kind, atoms=8, **options):
        return ensembles.build(
            EnsembleConfig(kind=kind), 1.0, atoms, DOUBLE, **options
        ).degrees_of_freedom

    assert [freedom(kind) for kind in ("nve", "csvr", "nose_hoover", "langevin")] == [
        21,
        21,
        21,
        24,
    ]
    assert freedom("langevin", drift_interval=1) == 21
    assert freedom("nve", mobile=np.arange(8) > 2) == 15
    assert freedom("nve", atoms=1) == 3


def test_drift_is_removed_at_the_interval():
    built = ensembles.build(EnsembleConfig(), 1.0, 3, DOUBLE, drift_interval=4)
    masses = jnp.array([[1.0], [2.0], [5.0]])
    momenta = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    zeros, cell = jnp.zeros((3, 3)), jnp.eye(3)
    state = built.init(jax.random.PRNGKey(0), zeros, momenta, zeros, masses)
    for step, moving in ((0, True), (2, True), (3, False)):
        after = built.after(state, Surroundings(jnp.asarray(step), cell, zeros))
        assert (np.abs(np.sum(after.momentum, axis=0)).max() > 1e-12) == moving
    assert float(kinetic_energy(after.momentum, masses)) > 0.0
    # Velocities differ from the earlier ones by that of the centre of mass alone.
    change = np.asarray((after.momentum - momenta) / masses)
    np.testing.assert_allclose(change, change[:1].repeat(3, axis=0), atol=1e-14)
