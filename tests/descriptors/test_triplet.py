"""Kernels of triplets against loops over pairs of neighbours."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.triplet import TripletKernel

SPECIES = (14, 8, 6)
POINTS = ((4.0, 0.2, 2.5), (5.0, 0.0, 2.0), (3.5, 1.0, 3.0))
THETA = (1.0, 0.8, 0.6)
KERNEL = TripletKernel(
    species=SPECIES,
    cutoff=3.2,
    cutoff_transition_width=0.7,
    theta=THETA,
    points=POINTS,
    jitter=1e-4,
)


@pytest.fixture(scope="module")
def structure():
    rng = np.random.default_rng(0)
    cell = np.diag([4.1, 4.4, 4.9]) + 0.3 * rng.normal(size=(3, 3))
    positions = rng.uniform(size=(4, 3)) @ cell
    return Structure(np.array([8, 14, 6, 8]), positions, cell, np.array([True] * 3))


def features(descriptor, structure, dtype: Any = np.float64):
    graph = make_graph(structure, descriptor.cutoff, dtype=dtype)
    return np.asarray(jax.jit(lambda g: descriptor.apply({}, g))(graph))


def smooth(r: float) -> float:
    return 1.0 if r < 2.5 else 0.5 * (1.0 + np.cos(np.pi * (r - 2.5) / 0.7))


def by_loops(structure: Structure) -> np.ndarray:
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3) @ structure.cell
    pairs = list(itertools.combinations_with_replacement(SPECIES, 2))
    matrix = np.array(
        [
            [np.exp(-0.5 * np.sum(((np.subtract(p, q)) / THETA) ** 2)) for p in POINTS]
            for q in POINTS
        ]
    )
    lower = np.linalg.cholesky(matrix + 1e-4 * np.eye(3))
    rows = np.zeros((structure.num_atoms, len(pairs), 3))
    for i, center in enumerate(structure.positions):
        near = [
            (z, x + shift - center)
            for z, x in zip(structure.atomic_numbers, structure.positions, strict=True)
            for shift in shifts
            if 0.0 < np.linalg.norm(x + shift - center) < 3.2
        ]
        for (zj, rj), (zk, rk) in itertools.combinations(near, 2):
            a, b, c = (np.linalg.norm(v) for v in (rj, rk, rj - rk))
            q = np.array([a + b, (a - b) ** 2, c])
            kernel = np.exp(-0.5 * np.sum(((q - POINTS) / THETA) ** 2, axis=1))
            pair = next(p for p, zs in enumerate(pairs) if sorted(zs) == sorted((zj, zk)))
            rows[i, pair] += smooth(float(a)) * smooth(float(b)) * np.linalg.solve(lower, kernel)
    return rows.reshape(structure.num_atoms, -1)


def test_features_are_sums_over_triplets(structure):
    expected = by_loops(structure)
    assert np.count_nonzero(np.abs(expected).max(axis=0)) == 18
    np.testing.assert_allclose(features(KERNEL, structure), expected, atol=1e-12)
    # Some hundred triplets in float32.
    low = features(KERNEL, structure, np.float32)
    np.testing.assert_allclose(low, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(KERNEL.isolated_features(), np.zeros((3, 18)))


def test_neighbours_beyond_the_cutoff_and_padding_add_nothing(structure):
    graph = make_graph(structure, 4.0, dtype=np.float64, bucket=Bucket(1, 6, 64))
    found = np.asarray(jax.jit(lambda g: KERNEL.apply({}, g))(graph))
    np.testing.assert_allclose(found[:4], features(KERNEL, structure), atol=1e-13)
    np.testing.assert_array_equal(found[4:], 0.0)


@pytest.mark.parametrize("slots", [1, 2])
def test_an_atom_without_pairs_of_neighbours_has_no_features(slots):
    numbers, positions = np.array([14, 8])[:slots], np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]])
    few = Structure(numbers, positions[:slots], np.zeros((3, 3)), np.zeros(3, bool))
    graph = make_graph(few, 3.2, dtype=np.float64, bucket=Bucket(1, slots, slots))
    call = jax.jit(lambda g: KERNEL.apply({}, g, method="pair_jacobian"))
    for values in call(graph):
        np.testing.assert_array_equal(values, 0.0)


def test_sparse_points_are_spread_triangles():
    spread = dataclasses.replace(KERNEL, points=None, num_sparse=40, min_distance=1.5)
    points = spread.sparse_points()
    total, squares, apart = points.T
    difference = np.sqrt(squares)
    near, far = 0.5 * (total - difference), 0.5 * (total + difference)
    rounding = 1e-9
    assert len(np.unique(points, axis=0)) == 40
    assert np.all(near > 1.5 - rounding)
    assert np.all(far < 3.2 + rounding)
    assert np.all(apart > np.maximum(1.5, difference) - rounding)
    assert np.all(apart < total + rounding)
    gaps = np.linalg.norm((points[:, None] - points[None]) / THETA, axis=-1)
    assert np.min(gaps + 10.0 * np.eye(40)) > 0.4
    taken = dataclasses.replace(spread, min_distance=None).sparse_points()
    assert taken[:, 2].min() == pytest.approx(1.0)


@jax.jit
def derivatives(graph):
    """First and second derivatives of a sum of features by the positions."""

    def total(x):
        return jnp.sum(jnp.asarray(KERNEL.apply({}, dataclasses.replace(graph, positions=x))))

    gradient = jax.grad(total)
    x = graph.positions
    return total(x), gradient(x), jax.jvp(gradient, (x,), (jnp.cos(x + 1.0),))[1]


def molecule(positions, cutoff: float = 3.5):
    numbers = np.array([14, 8, 6])
    open_ = Structure(numbers, np.array(positions), np.zeros((3, 3)), np.zeros(3, bool))
    return make_graph(open_, cutoff, dtype=np.float64, bucket=Bucket(1, 4, 4))


def test_values_and_derivatives_are_finite_anywhere():
    """Linear, close and coinciding atoms, one alone, and one at the cutoff."""
    graph = molecule([[0.0, 0.0, 0.0], [0.0, 0.0, 0.3], [0.0, 0.0, -1.0]])
    for z in (-1.0, 0.0, 0.3, 1e-7, 3.2, 90.0):
        moved = np.array(graph.positions)
        moved[2, 2] = z
        for values in derivatives(dataclasses.replace(graph, positions=moved)):
            assert np.isfinite(values).all()


def test_the_derivative_is_that_of_the_values_and_vanishes_at_the_cutoff():
    graph = molecule([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [0.2, 2.3, 0.1]])
    step, direction = 1e-4, np.random.default_rng(1).normal(size=np.shape(graph.positions))

    def along(t: float) -> float:
        moved = np.asarray(graph.positions) + t * direction
        return float(derivatives(dataclasses.replace(graph, positions=moved))[0])

    slope = float(np.sum(np.asarray(derivatives(graph)[1]) * direction))
    # Central differences of fourth order.
    found = (8 * (along(step) - along(-step)) - along(2 * step) + along(-2 * step)) / (12 * step)
    assert abs(slope) > 1e-2
    assert found == pytest.approx(slope, rel=1e-8)
    moved = np.array(graph.positions)
    # A carbon 1e-4 Å before the cutoffs of both others: w = (π x / 2)² with x = 1e-4 / 0.7.
    moved[1], moved[2] = [0.0, 0.0, 1.0], [0.0, 3.1999, 0.0]
    value, gradient, _ = derivatives(dataclasses.replace(graph, positions=moved))
    assert abs(value) < 1e-6
    assert np.abs(gradient).max() < 1e-2
    moved[2, 1] = 3.2
    value, gradient, _ = derivatives(dataclasses.replace(graph, positions=moved))
    assert (value, np.abs(gradient).max()) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"species": None}, "no species"), ({"theta": (1.0, 0.0, 1.0)}, "positive widths")],
)
def test_impossible_settings_are_refused(structure, fields, message):
    with pytest.raises(UserError, match=message):
        features(dataclasses.replace(KERNEL, **fields), structure)
