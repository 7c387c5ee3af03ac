"""One structure, four paths: padded batch, ASE calculator, graph of the dynamics, supercell."""

import dataclasses

import jax
import numpy as np
import pytest

from mlip_jax import models
from mlip_jax.data.collate import collate, exact_bucket, largest_range, make_graph
from mlip_jax.data.formats.ase_files import to_atoms
from mlip_jax.data.structure import Structure
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.potential import Potential, cast_variables, predict_fn
from mlip_jax.simulate.system import prepare, replicate
from tests.models.presets import PRESETS

pytestmark = pytest.mark.slow  # a model compiles four programs

TOLERANCE = 1e-10
DOUBLE = np.dtype("float64")


def rattled(seed=0, atoms=6):
    """A few atoms of two elements in a skewed cell smaller than two cutoffs."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.2, 0.0, 0.0], [0.9, 5.5, 0.0], [-0.6, 0.7, 5.9]])
    grid = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])[:atoms]
    fractional = 0.5 * grid + rng.uniform(-0.06, 0.06, (atoms, 3))
    numbers = np.array([14, 8, 8, 14, 14, 8])[:atoms]
    return Structure(numbers, fractional @ cell, cell, np.ones(3, bool))


@pytest.fixture(scope="module", params=PRESETS)
def potential(request):
    model = models.build_model({request.param: PRESETS[request.param]})
    needs = models.requirements(model)
    graph = make_graph(
        rattled(),
        needs.cutoff,
        prefix_cutoffs=needs.prefix_cutoffs,
        dtype=np.float64,
        reverse=needs.reverse,
        reciprocal_cutoff=needs.reciprocal_cutoff,
    )
    variables = jax.jit(model.init)(jax.random.PRNGKey(1), graph)
    return Potential(model, cast_variables(variables, DOUBLE), {8: 0.0, 14: 0.0})


def by_batch(potential, structure):
    """Behind another structure, in a bucket with room to spare."""
    needs = models.requirements(potential.model)
    structures = [rattled(seed=3, atoms=4), structure]
    lists = [neighbor_list(s.positions, s.cell, s.pbc, needs.cutoff) for s in structures]
    exact = exact_bucket(lists, needs.prefix_cutoffs)
    bucket = dataclasses.replace(
        exact,
        graphs=3,
        atoms=exact.atoms + 5,
        max_neighbors=exact.max_neighbors + 3,
        prefixes=tuple((c, k + 2) for c, k in exact.prefixes),
        k_range=largest_range(structures, needs.reciprocal_cutoff),
    )
    graph = collate(structures, lists, bucket, dtype=np.float64, reverse=needs.reverse)
    prediction = jax.jit(predict_fn(potential.model))(potential.variables, graph)
    return (
        prediction.energy[1],
        prediction.forces[4 : 4 + structure.num_atoms],
        prediction.stress[1],
    )


def by_calculator(potential, structure):
    atoms = to_atoms(structure)
    atoms.calc = MLIPCalculator(potential, precision="float64")
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


def by_dynamics(potential, structure):
    """From a list with a skin that was built elsewhere."""
    moved = np.random.default_rng(7).uniform(-0.1, 0.1, structure.positions.shape)
    elsewhere = dataclasses.replace(structure, positions=structure.positions + moved)
    system = prepare(potential, elsewhere, "float64", 0.8)
    positions = structure.positions - system.images @ structure.cell

    @jax.jit
    def predict(variables, neighbors, positions, cell):
        stale = device.is_stale(neighbors, positions, cell)
        graph, neighbors = active.to_graph(system.template, neighbors, positions, cell)
        return system.predict(variables, graph), device.flags(neighbors), stale

    arguments = map(jax.numpy.asarray, (positions, structure.cell))
    prediction, flags, stale = predict(system.variables, system.neighbors, *arguments)
    assert int(flags) == 0
    assert not stale
    return prediction.energy[0], prediction.forces[: structure.num_atoms], prediction.stress[0]


def by_supercell(potential, structure):
    energy, forces, stress = by_calculator(potential, replicate(structure, (2, 2, 2)))
    copies = forces.reshape(8, -1, 3)
    np.testing.assert_allclose(copies, np.broadcast_to(copies[:1], copies.shape), atol=TOLERANCE)
    return energy / 8, copies[0], stress


@pytest.mark.parametrize("path", [by_batch, by_dynamics, by_supercell])
def test_paths_agree(potential, path):
    structure = rattled()
    expected = by_calculator(potential, structure)
    found = path(potential, structure)
    atoms = structure.num_atoms
    for a, b, size in zip(found, expected, (atoms, 1, 1), strict=True):
        bound = TOLERANCE * max(1.0, np.max(np.abs(b)) / size)
        np.testing.assert_allclose(np.asarray(a) / size, np.asarray(b) / size, atol=bound, rtol=0)
