"""Harmonics on S³: orthogonal on the quadrature, and summing to zonal functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.nn import angular, hyperspherical

DEGREE = 6


def quadrature(degree):
    nodes, weights = hyperspherical.quadrature(degree)
    return nodes.reshape(-1, 4), np.tile(weights, len(nodes))


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(9, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_harmonics_of_like_parity_are_orthogonal_with_the_norm_of_their_degree():
    nodes, weights = quadrature(2 * DEGREE)
    harmonics = hyperspherical.harmonics(nodes, DEGREE)
    for n in range(DEGREE + 1):
        for m in range(n % 2, DEGREE + 1, 2):
            products = np.einsum("aq,bq,q->ab", harmonics[n], harmonics[m], weights)
            expected = np.eye(len(products)) / (n + 1) if n == m else 0.0
            np.testing.assert_allclose(
                products, np.broadcast_to(expected, products.shape), atol=1e-13
            )


def test_the_addition_theorem_gives_chebyshev_polynomials(points):
    harmonics = hyperspherical.harmonics(points, DEGREE)
    angles = np.arccos(np.clip(points @ points.T, -1.0, 1.0))
    for n, h in enumerate(harmonics):
        apart = angles > 1e-6
        expected = np.sin((n + 1) * angles[apart]) / np.sin(angles[apart])
        np.testing.assert_allclose((h.T @ h)[apart], expected, atol=1e-12)
        np.testing.assert_allclose(np.diag(h.T @ h), n + 1, atol=1e-12)


def test_radial_times_spherical_factors_are_the_harmonics(points):
    radial, spherical = factors(points)
    expected = np.concatenate(hyperspherical.harmonics(points, DEGREE))
    rows, columns = hyperspherical.factors_of_harmonics(DEGREE)
    np.testing.assert_allclose((radial[rows] * spherical[columns])[:, 0], expected, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 6])
def test_sums_over_points(points, degree):
    radial, spherical = factors(points, degree)
    strengths = np.random.default_rng(1).normal(size=(1, len(points)))
    sums = jax.jit(hyperspherical.sums, static_argnums=3)(strengths, radial, spherical, degree)
    for found, harmonics in zip(sums, hyperspherical.harmonics(points, degree), strict=True):
        np.testing.assert_allclose(found[0], harmonics @ strengths[0], atol=1e-12)


def factors(points, degree=DEGREE):
    """Factors of the harmonics at the points, as the neighbours of one atom."""
    sine = np.linalg.norm(points[:, 1:], axis=1)
    cosine, directions = jnp.asarray(points[None, :, 0]), points[None, :, 1:] / sine[:, None]
    radial = hyperspherical.radial_factors(cosine, jnp.asarray(sine[None]), degree)
    return radial, angular.stacked_harmonics(jnp.asarray(directions), degree)


@pytest.mark.parametrize("degree", [2, 5, 12, 18, 24])
def test_the_quadrature_integrates_even_polynomials_exactly(degree):
    nodes, weights = quadrature(degree)
    assert np.sum(weights) == pytest.approx(1.0, abs=1e-13)
    direction = np.array([0.1, -0.7, 0.5, 0.4])
    direction /= np.linalg.norm(direction)
    for power in range(0, degree + 1, 2):
        # The mean of (q·a)^(2k) on S³ is the Catalan number C_k over 4^k.
        k = power // 2
        catalan = np.prod([(k + j) / j for j in range(2, k + 1)])
        assert weights @ (nodes @ direction) ** power == pytest.approx(catalan / 4**k, abs=1e-13)


def test_a_degree_beyond_the_rules_is_refused():
    with pytest.raises(ValueError, match="264"):
        hyperspherical.quadrature(264)
