"""The flux of heat against the barycentre of energy, and conductivities of known series."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import elements, models, units
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.potential import Potential, predict_fn
from mlip_jax.properties import green_kubo, heat_flux

SETTINGS = {
    "behler_parrinello": {"num_radial": 3, "num_angular": 2, "zetas": [1], "hidden": [4]},
    "nequip": {
        "num_layers": 2,
        "l_max": 1,
        "num_features": 3,
        "num_bessels": 4,
        "radial_mlp_width": 4,
        "avg_num_neighbors": 8.0,
    },
}
CUTOFF = 3.0
NAMES = sorted(SETTINGS)


@functools.cache
def model(name):
    fields = {"species": ["Si"], "cutoff": CUTOFF, "energy_scale": 1.0, **SETTINGS[name]}
    module = models.build_model({name: fields})
    graph = jax.tree.map(jnp.asarray, make_graph(crystal(), CUTOFF, dtype=np.float64))
    variables = jax.jit(module.init)(jax.random.key(0), graph)
    if hasattr(module, "calibrate"):
        variables = module.calibrate(variables, [graph])
    return module, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)


def crystal(seed=0):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
    cell = 4.4 * np.eye(3) + 0.1 * rng.normal(size=(3, 3))
    positions = grid @ cell + 0.1 * rng.normal(size=(8, 3))
    return Structure(np.full(8, 14), positions, cell, np.ones(3, bool))


def cluster(seed=0):
    solid = crystal(seed)
    return dataclasses.replace(solid, cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))


def velocities(number, seed=1):
    return np.random.default_rng(seed).normal(scale=0.05, size=(number, 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_barycentre_of_a_cluster_moves_with_the_flux(name):
    """Velocity Verlet, differences of fourth order in time."""
    module, variables = model(name)
    structure, masses = cluster(), np.full(8, 28.0)
    graph = jax.tree.map(jnp.asarray, make_graph(structure, 1e3, dtype=np.float64))
    predict = jax.jit(predict_fn(module))

    def barycentre(positions, speeds):
        energies = predict(variables, dataclasses.replace(graph, positions=positions)).atom_energies
        whole = energies + 0.5 * masses * jnp.sum(speeds**2, axis=1)
        return whole @ positions

    def moved(step, count):
        positions, speeds = graph.positions, jnp.asarray(velocities(8))
        for _ in range(abs(count)):
            step = abs(step) * np.sign(count)
            forces = predict(variables, dataclasses.replace(graph, positions=positions)).forces
            speeds = speeds + 0.5 * step * forces / masses[:, None]
            positions = positions + step * speeds
            forces = predict(variables, dataclasses.replace(graph, positions=positions)).forces
            speeds = speeds + 0.5 * step * forces / masses[:, None]
        return barycentre(positions, speeds)

    def slope(step):
        ahead, back = moved(step, 1), moved(step, -1)
        return (ahead - back) / (2.0 * step)

    # The error of a step is of the third order, and so is that of the difference.
    expected = (4.0 * slope(5e-3) - slope(1e-2)) / 3.0
    flux = jax.jit(heat_flux.heat_flux_fn(module))
    found = flux(variables, graph, jnp.asarray(velocities(8)), jnp.asarray(masses))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_pair_vectors_give_the_flux_of_images():
    module, variables = model("behler_parrinello")
    fluxes = [
        flux_of(module, variables, heat_flux.heat_flux_fn, unfolded=True),
        flux_of(module, variables, heat_flux.pair_heat_flux_fn, unfolded=False),
    ]
    np.testing.assert_allclose(fluxes[0], fluxes[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_flux_is_extensive_and_more_images_change_nothing(name):
    module, variables = model(name)
    options = {"unfolded": True, "factory": heat_flux.heat_flux_fn}
    hops = SETTINGS[name].get("num_layers", 1)
    single = flux_of(module, variables, hops=hops, **options)
    farther = flux_of(module, variables, hops=hops + 0.4, **options)
    np.testing.assert_allclose(farther, single, rtol=1e-10, atol=1e-12)
    double = flux_of(module, variables, hops=hops, copies=2, **options)
    np.testing.assert_allclose(double, 2.0 * single, rtol=1e-10, atol=1e-12)


def flux_of(module, variables, factory, unfolded, hops=1.0, copies=1, mass=28.0):
    solid = crystal()
    number = 8 * copies
    solid = Structure(
        np.full(number, 14),
        np.concatenate([solid.positions + i * solid.cell[0] for i in range(copies)]),
        solid.cell * np.array([[copies], [1], [1]]),
        solid.pbc,
    )
    whole, sources = solid, np.arange(number)
    if unfolded:
        whole, sources, _ = heat_flux.unfold(solid, hops * CUTOFF)
    graph = make_graph(whole, CUTOFF, dtype=np.float64)
    mask = np.arange(whole.num_atoms) < number
    graph = jax.tree.map(jnp.asarray, dataclasses.replace(graph, energy_mask=mask))
    speeds = np.tile(velocities(8), (copies, 1))[sources]
    masses = np.full(len(sources), mass)
    return jax.jit(factory(module))(variables, graph, jnp.asarray(speeds), jnp.asarray(masses))


@pytest.mark.parametrize("name", NAMES)
def test_frames_of_a_trajectory_have_the_flux_of_their_cells(name):
    """By the way that pads and, for messages, unfolds; in eV Å/fs, of momenta."""
    module, variables = model(name)
    potential = Potential(module, variables, {14: -1.0})
    mass = elements.MASSES[14]
    moved = dataclasses.replace(crystal(), positions=crystal().positions + crystal().cell[1])
    found = list(heat_flux.heat_fluxes(potential, [crystal(), moved], 2 * [mass * velocities(8)]))
    hops = SETTINGS[name].get("num_layers", 1)
    flux = flux_of(module, variables, heat_flux.heat_flux_fn, True, hops=hops, mass=mass)
    expected = np.asarray(flux) / units.TIME_UNIT
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-10, atol=1e-12)


def test_images_are_all_within_reach_and_no_others():
    solid = crystal()
    whole, sources, offsets = heat_flux.unfold(solid, 5.0)
    np.testing.assert_allclose(whole.positions, solid.positions[sources] + offsets)
    pairs = neighbor_list(solid.positions, solid.cell, solid.pbc, 5.0)
    within = neighbor_list(whole.positions, whole.cell, whole.pbc, 5.0)
    assert np.array_equal(within.counts[:8], pairs.counts)
    distances = np.linalg.norm(whole.positions[8:, None] - solid.positions[None], axis=-1)
    assert distances.min(axis=1).max() <= 5.0


def relaxing(frames, decay, seed):
    """Three components whose correlation falls by a factor each frame; variance 1."""
    rng = np.random.default_rng(seed)
    values = np.zeros((frames, 3))
    values[0] = rng.normal(size=3)
    noise = np.sqrt(1.0 - decay**2) * rng.normal(size=(frames, 3))
    for i in range(1, frames):
        values[i] = decay * values[i - 1] + noise[i]
    return values


def test_a_relaxing_flux_has_its_conductivity():
    interval, volume, temperature, decay = 2.0, 1000.0, 300.0, 0.7
    # The sum over all lags of a discrete series is its spectrum at zero.
    exact = interval * 0.5 * (1.0 + decay) / (1.0 - decay)
    exact /= volume * 8.617333262e-5 * temperature**2
    series = [relaxing(20_000, decay, seed) for seed in range(16)]
    found = [green_kubo.conductivity(j, interval, volume, temperature) for j in series]
    values = np.array([one.value for one in found]) / exact
    errors = np.array([one.error for one in found]) / exact
    assert abs(values.mean() - 1.0) < 0.05
    assert 0.8 < values.std() / errors.mean() < 2.2
    assert errors.mean() < 0.05
    for one in found:
        late = one.running[60:200] / exact  # 20 to 70 times the decay
        assert np.abs(late.mean() - 1.0) < 6.0 * one.running_errors[60:200].mean() / exact


def test_series_that_cannot_serve_are_refused():
    with pytest.raises(UserError, match="frames in 5 parts"):
        green_kubo.conductivity(relaxing(10, 0.5, 0), 1.0, 1.0, 300.0)
    with pytest.raises(UserError, match="volume"):
        green_kubo.conductivity(relaxing(100, 0.5, 0), 1.0, 0.0, 300.0)
    with pytest.raises(UserError, match="frequencies up to"):
        green_kubo.conductivity(relaxing(100, 0.5, 0), 1.0, 1.0, 300.0, highest=50.0)
    broken = relaxing(100, 0.5, 0)
    broken[7, 1] = np.nan
    with pytest.raises(UserError, match="frame 7"):
        green_kubo.conductivity(broken, 1.0, 1.0, 300.0)
