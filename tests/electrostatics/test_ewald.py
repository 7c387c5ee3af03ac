"""Sums over periodic images against plain loops, Madelung's constants and the reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.electrostatics import ewald
from mlip_jax.graph import AtomOutputs, edge_vectors
from mlip_jax.neighbors.reciprocal import reciprocal_range
from mlip_jax.potential import predict_fn
from tests.electrostatics import sums

ACCURACY = 1e-14

CELL = np.array([[4.1, 0.0, 0.0], [1.3, 3.7, 0.0], [-0.7, 0.9, 5.2]])
POSITIONS = np.array([[0.1, 0.2, 0.3], [1.9, 1.4, 2.2], [3.0, 2.9, 4.4], [7.5, -3.0, 1.0]])
CHARGES = np.array([0.8, -1.1, 0.5, -0.2])
WIDTHS = np.array([0.6, 0.9, 1.2, 0.75])


def structure(periodic=True, positions=POSITIONS, cell=CELL, name=""):
    number = len(positions)
    pbc = np.full(3, periodic)
    return Structure(np.ones(number, np.int64), positions, cell, pbc, name=name)


def padded(values, atoms):
    return jnp.asarray(np.concatenate([values, np.full(atoms - len(values), 0.7)]))


def gaussian_graph(*structures, atoms=None, dtype: type = np.float64):
    cutoff = ewald.reciprocal_cutoff(float(WIDTHS.min()), ACCURACY)
    graph = make_graph(structures, 1.0, dtype=dtype, reciprocal_cutoff=cutoff)
    if atoms is not None:
        bucket = Bucket(len(structures) + 1, atoms, 4, k_range=graph.k_range)
        graph = make_graph(structures, 1.0, dtype=dtype, bucket=bucket)
    return jax.tree.map(jnp.asarray, graph), cutoff


@functools.cache
def gaussian_program(cutoff):
    """One compilation for each shape."""

    def model(parameters, graph):
        q, s = parameters
        return AtomOutputs(ewald.gaussian_energies(graph, q, s, cutoff, sums.K), charges=q)

    return jax.jit(predict_fn(model))


def predict_gaussians(graph, charges, widths, cutoff):
    return gaussian_program(cutoff)((charges, widths), graph)


def test_gaussian_charges_in_skewed_cells_and_open_systems_share_a_padded_batch():
    graph, cutoff = gaussian_graph(structure(), structure(periodic=False), atoms=12)
    charges, widths = (padded(np.tile(v, 2), 12) for v in (CHARGES, WIDTHS))
    matrix = jax.jit(ewald.interaction_matrix, static_argnums=(2, 3))(graph, widths, cutoff, sums.K)
    matrix = np.array(matrix)
    periodic = sums.ewald_matrix(POSITIONS, CELL, WIDTHS, alpha=0.5, real=5, reciprocal=5)
    alone = sums.open_matrix(POSITIONS, WIDTHS)
    # 1e-12: rounding of sums of 10 to 100 eV/e² over some thousand terms.
    np.testing.assert_allclose(
        matrix[:4, :4], periodic, rtol=0, atol=1e-12 * np.abs(periodic).max()
    )
    np.testing.assert_allclose(matrix[4:8, 4:8], alone, rtol=1e-13)
    matrix[:4, :4] = matrix[4:8, 4:8] = 0.0
    assert (matrix == 0.0).all()

    prediction = predict_gaussians(graph, charges, widths, cutoff)
    for index, expected in enumerate((periodic, alone)):
        rows = slice(4 * index, 4 * index + 4)
        energies = 0.5 * CHARGES * (expected @ CHARGES)
        np.testing.assert_allclose(prediction.atom_energies[rows], energies, rtol=0, atol=1e-11)
    assert (np.asarray(prediction.forces[8:]) == 0.0).all()


def test_a_net_charge_has_a_uniform_background():
    """Charges so wide that they are uniform themselves cancel it."""
    graph, _ = gaussian_graph(structure())
    wide = jnp.full(4, 4.0)
    energy = predict_gaussians(graph, jnp.ones(4), wide, 1.0).energy[0]
    assert 0.0 < float(energy) < 1e-4
    # An independent splitting gives the same energy of a charged cell.
    charges = np.array([1.0, 0.5, -0.2, 0.3])
    graph, cutoff = gaussian_graph(structure())
    expected = sums.ewald_matrix(POSITIONS, CELL, WIDTHS, alpha=0.45, real=6, reciprocal=5)
    energy = predict_gaussians(graph, jnp.asarray(charges), jnp.asarray(WIDTHS), cutoff).energy[0]
    assert float(energy) == pytest.approx(0.5 * charges @ expected @ charges, rel=1e-12)


@functools.cache
def point_program(cutoff, accuracy, transform):
    def model(charges, graph):
        return AtomOutputs(ewald.point_energies(graph, charges, cutoff, accuracy, sums.K))

    return jax.jit(transform(model))


def point_graph(found, cutoff, accuracy, rows=None):
    reach = ewald.point_cutoff(cutoff, accuracy)
    graph = make_graph(found, cutoff, dtype=np.float64, reciprocal_cutoff=reach)
    if rows is not None:
        bucket = Bucket(1, found.num_atoms, rows, k_range=graph.k_range)
        graph = make_graph(found, cutoff, dtype=np.float64, bucket=bucket)
    return jax.tree.map(jnp.asarray, graph)


def point_prediction(found, charges, cutoff, accuracy, rows=None):
    program = point_program(cutoff, accuracy, predict_fn)
    return program(jnp.asarray(charges), point_graph(found, cutoff, accuracy, rows))


def point_energy(found, charges, cutoff, accuracy):
    program = point_program(cutoff, accuracy, lambda model: model)
    return float(program(jnp.asarray(charges), point_graph(found, cutoff, accuracy)).energies.sum())


def test_madelung_constants():
    """Published to 13 digits; the splitting must not matter."""
    length = 4.2
    cubic = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    caesium = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    sodium = np.concatenate([cubic, cubic + 0.5])
    for fractions, distance, constant, cutoffs in (
        (caesium, np.sqrt(0.75), 1.762674773070, (6.0,)),
        (sodium, 0.5, 1.747564594633, (5.0, 7.0)),
    ):
        found = structure(positions=length * fractions, cell=length * np.eye(3))
        pairs = len(fractions) // 2
        charges = np.repeat([1.0, -1.0], pairs)
        expected = -pairs * sums.K * constant / (distance * length)
        for cutoff in cutoffs:
            energy = point_energy(found, charges, cutoff, 1e-13)
            assert energy == pytest.approx(expected, rel=1e-11)


def test_point_charges_without_a_cell_are_summed_directly():
    expected = 0.0
    for i in range(4):
        for j in range(i):
            r = np.linalg.norm(POSITIONS[i] - POSITIONS[j])
            expected += sums.K * CHARGES[i] * CHARGES[j] / r
    energy = point_energy(structure(periodic=False), CHARGES, 5.0, 1e-10)
    assert energy == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("kind", ["gaussian", "point"])
def test_forces_and_stress_are_derivatives(kind):
    def prediction(positions, cell):
        found = structure(positions=positions, cell=cell)
        if kind == "point":
            return point_prediction(found, CHARGES, 6.0, 1e-13, rows=64)
        graph, cutoff = gaussian_graph(found)
        return predict_gaussians(graph, jnp.asarray(CHARGES), jnp.asarray(WIDTHS), cutoff)

    here, h = prediction(POSITIONS, CELL), 1e-3
    unit = np.zeros((4, 3))
    unit[1, 2] = 1.0
    strain = np.zeros((3, 3))
    strain[0, 2] = strain[2, 0] = 0.5

    def slope(energy):
        values = [float(energy(n * h)) for n in (-2, -1, 1, 2)]
        return (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * h)

    force = -slope(lambda h: prediction(POSITIONS + h * unit, CELL).energy[0])
    # 1e-8: fourth-order differences with a step of 1e-3 Å.
    assert float(here.forces[1, 2]) == pytest.approx(force, abs=1e-8)

    def strained(h):
        deform = np.eye(3) + h * strain
        return prediction(POSITIONS @ deform, CELL @ deform).energy[0]

    volume = abs(np.linalg.det(CELL))
    assert float(here.stress[0, 0, 2] * volume) == pytest.approx(slope(strained), abs=1e-7)


def test_erf_over_r_and_its_derivatives_are_smooth_at_zero():
    a = jnp.asarray(0.8)
    value = jax.jit(lambda squares: ewald.erf_over_r(squares, a))
    # Both branches meet where a² r² is 0.01: values, slopes and curvatures agree.
    edge = 0.01 / 0.8**2
    for function in (value, jax.jit(jax.grad(value)), jax.jit(jax.grad(jax.grad(value)))):
        below, above = (float(function(jnp.asarray(edge * (1.0 + s)))) for s in (-1e-9, 1e-9))
        assert below == pytest.approx(above, rel=2e-8)  # rounding of erf, divided by a² r² twice
        assert np.isfinite(float(function(jnp.asarray(0.0))))
    assert float(value(jnp.asarray(0.0))) == pytest.approx(2.0 * 0.8 / np.sqrt(np.pi), rel=1e-15)


def test_single_precision():
    graph, cutoff = gaussian_graph(structure())
    high = predict_gaussians(graph, jnp.asarray(CHARGES), jnp.asarray(WIDTHS), cutoff)
    graph, cutoff = gaussian_graph(structure(), dtype=np.float32)
    low = predict_gaussians(
        graph, jnp.asarray(CHARGES, jnp.float32), jnp.asarray(WIDTHS, jnp.float32), cutoff
    )
    assert low.forces.dtype == jnp.float32
    # Seen: 3e-7 of the energies' and 1e-6 of the forces' size, some ulp of the largest terms.
    np.testing.assert_allclose(low.energy, high.energy, rtol=1e-5)
    np.testing.assert_allclose(low.forces, high.forces, atol=1e-5 * np.abs(high.forces).max())


@jax.debug_nans(False)
def test_what_a_sum_cannot_serve_is_not_a_number():
    """Cells that have outgrown the box of vectors, and slabs that reach the device all the same."""
    graph, cutoff = gaussian_graph(structure())
    charges, widths = jnp.asarray(CHARGES), jnp.asarray(WIDTHS)
    energies = jax.jit(lambda g: ewald.gaussian_energies(g, charges, widths, cutoff))
    assert np.isfinite(energies(graph)).all()
    grown = dataclasses.replace(graph, cell=1.3 * graph.cell, positions=1.3 * graph.positions)
    assert np.isnan(energies(grown)).all()
    slab = dataclasses.replace(graph, pbc=jnp.asarray([[True, True, False]]))
    assert np.isnan(energies(slab)).all()
    ghost = dataclasses.replace(graph, energy_mask=jnp.asarray([True, True, True, False]))
    assert np.isnan(energies(ghost)).all()
    closed = dataclasses.replace(gaussian_graph(structure(periodic=False))[0], pbc=graph.pbc)
    assert np.isnan(energies(closed)).all()


def test_impossible_requests_are_named():
    graph, cutoff = gaussian_graph(structure())
    charges, widths = jnp.asarray(CHARGES), jnp.asarray(WIDTHS)
    bare = dataclasses.replace(graph, k_range=None)
    with pytest.raises(UserError, match=r"made without k_range; .* reciprocal_cutoff"):
        ewald.gaussian_energies(bare, charges, widths, cutoff)
    vectors = dataclasses.replace(graph, vectors=edge_vectors(graph))
    with pytest.raises(UserError, match="have no pair form"):
        ewald.gaussian_energies(vectors, charges, widths, cutoff)
    with pytest.raises(UserError, match=r"accuracy: got 0\.0; expected a small positive number"):
        ewald.reciprocal_cutoff(1.0, 0.0)
    with pytest.raises(UserError, match="width: got -1"):
        ewald.reciprocal_cutoff(-1.0, 1e-10)
    slab = dataclasses.replace(structure(name="slab 3"), pbc=np.array([True, True, False]))
    with pytest.raises(UserError, match=r"slab 3: pbc: got \[True, True, False\]; .* vacuum"):
        make_graph(slab, 1.0, reciprocal_cutoff=3.0)


def test_the_range_covers_the_sphere():
    """Every reciprocal lattice vector within the cutoff, by search over a far larger box."""
    cutoff = 4.0
    limits = reciprocal_range(CELL, np.ones(3, bool), cutoff)
    steps = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(steps @ (2.0 * np.pi * np.linalg.inv(CELL).T), axis=1)
    needed = np.abs(steps[lengths <= cutoff]).max(axis=0)
    assert (needed <= limits).all()
    assert (needed >= np.array(limits) - 1).all()


@pytest.mark.reference
@pytest.mark.skipif(not sums.REFERENCE.exists(), reason=sums.REASON)
@pytest.mark.parametrize("index", range(len(sums.cases("ewald_fixed_charges"))))
def test_the_reference_of_fixed_charges(index):
    """1e-9 relative, as the reference states for itself."""
    case = sums.cases("ewald_fixed_charges")[index]
    charges, widths = case["charges"], case["sigmas"]
    found = Structure(case["numbers"], case["positions"], case["cell"], case["pbc"])
    point = point_prediction(found, charges, 9.0, 1e-13)
    check(point, case["energy"], case["forces"], case.get("stress"))

    cutoff = ewald.reciprocal_cutoff(float(widths.min()), ACCURACY)
    graph = make_graph(found, 1.0, dtype=np.float64, reciprocal_cutoff=cutoff)
    prediction = predict_gaussians(graph, jnp.asarray(charges), jnp.asarray(widths), cutoff)
    energy, stress = case["energy_gauss"], case.get("stress_gauss")
    energy = energy + sums.K * np.sum(charges**2 / (2.0 * np.sqrt(np.pi) * widths))
    if found.pbc.all():
        # The reference counts half of the background's interaction with the charges' extent,
        # 2π/V Q Σ q σ²: its energies diverge with σ, ours vanish (see the test above).
        volume = abs(np.linalg.det(found.cell))
        half = np.pi * sums.K / volume * charges.sum() * np.sum(charges * widths**2)
        energy, stress = energy + half, stress - np.eye(3) * half / volume
        if volume < 10.0:
            # In a cell of 2 Å the reference's sum over images ends too early, by 0.5 eV.
            matrix = sums.ewald_matrix(found.positions, found.cell, widths, 1.0, 8, 3)
            energy, stress = 0.5 * charges @ matrix @ charges, None
    check(prediction, energy, case["forces_gauss"], stress)


def check(prediction, energy, forces, stress):
    np.testing.assert_allclose(prediction.energy[0], energy, rtol=1e-9, atol=1e-11)
    largest = max(1.0, np.abs(forces).max())
    np.testing.assert_allclose(prediction.forces, forces, rtol=0, atol=1e-9 * largest)
    if stress is not None:
        largest = max(1.0, np.abs(stress).max())
        np.testing.assert_allclose(prediction.stress[0], stress, rtol=0, atol=1e-9 * largest)
