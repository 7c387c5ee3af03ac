"""Kernels of distances against loops over pairs."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.distance import DistanceKernel, whitening_of

POINTS = ((1.5, 2.5), (1.2, 2.0, 2.8), ())
KERNEL = DistanceKernel(
    species=(14, 8), cutoff=3.2, cutoff_transition_width=0.7, theta=0.6, points=POINTS, jitter=1e-4
)


@pytest.fixture(scope="module")
def structure():
    rng = np.random.default_rng(0)
    cell = np.diag([4.1, 4.4, 4.9]) + 0.3 * rng.normal(size=(3, 3))
    positions = rng.uniform(size=(4, 3)) @ cell
    return Structure(np.array([8, 14, 14, 8]), positions, cell, np.array([True] * 3))


def features(descriptor, structure, dtype: Any = np.float64):
    graph = make_graph(structure, descriptor.cutoff, dtype=dtype)
    return np.asarray(jax.jit(lambda g: descriptor.apply({}, g))(graph))


def by_loops(structure: Structure) -> np.ndarray:
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3) @ structure.cell
    pairs = [(14, 14), (14, 8), (8, 8)]
    rows = np.zeros((structure.num_atoms, 5))
    for i, own in enumerate(structure.atomic_numbers):
        for j, other in enumerate(structure.atomic_numbers):
            for shift in shifts:
                r = np.linalg.norm(structure.positions[j] + shift - structure.positions[i])
                if not 0.0 < r < 3.2:
                    continue
                smooth = 1.0 if r < 2.5 else 0.5 * (1.0 + np.cos(np.pi * (r - 2.5) / 0.7))
                pair = next(p for p, ab in enumerate(pairs) if sorted(ab) == sorted((own, other)))
                points = np.array(POINTS[pair])
                start = sum(map(len, POINTS[:pair]))
                kernel = np.exp(-0.5 * ((r - points) / 0.6) ** 2)
                matrix = np.exp(-0.5 * ((points[:, None] - points[None, :]) / 0.6) ** 2)
                lower = np.linalg.cholesky(matrix + 1e-4 * np.eye(len(points)))
                part = np.linalg.solve(lower, kernel)
                rows[i, start : start + len(points)] += 0.5 * smooth * part
    return rows


def test_features_are_sums_over_pairs(structure):
    expected = by_loops(structure)
    np.testing.assert_allclose(features(KERNEL, structure), expected, atol=1e-12)
    # Sums over some twenty neighbours in float32.
    np.testing.assert_allclose(features(KERNEL, structure, np.float32), expected, atol=1e-5)
    np.testing.assert_array_equal(KERNEL.isolated_features(), np.zeros((2, 5)))


def test_points_are_spread_where_none_are_given(structure):
    spread = dataclasses.replace(KERNEL, points=None, num_sparse=4, inner=1.4)
    given = dataclasses.replace(KERNEL, points=(tuple(np.linspace(1.4, 3.2, 4).tolist()),) * 3)
    np.testing.assert_array_equal(features(spread, structure), features(given, structure))


def test_many_points_stay_exact_in_float32(structure):
    """The kernels of close points cancel; their whitened functions come from float64."""
    close = dataclasses.replace(KERNEL, points=None, num_sparse=20, jitter=1e-10, theta=1.0)
    exact = features(close, structure)
    assert np.abs(whitening_of(close.sparse_points(2)[0], 1.0, 1e-10)).max() > 1e3
    np.testing.assert_allclose(
        features(close, structure, np.float32), exact, atol=1e-5 * np.abs(exact).max()
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"species": None}, "no species"),
        ({"points": POINTS[:2]}, "3 pairs"),
        ({"theta": 0.0}, "positive widths"),
    ],
)
def test_impossible_settings_are_refused(structure, fields, message):
    with pytest.raises(UserError, match=message):
        features(dataclasses.replace(KERNEL, **fields), structure)
