import itertools

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.nn import angular

L_MAX = 4
TRIANGLES = [
    (a, b, c)
    for a, b, c in itertools.product(range(L_MAX + 1), repeat=3)
    if abs(a - b) <= c <= a + b
]


def unit_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_clebsch_gordan_is_that_of_e3nn():
    for degrees in TRIANGLES:
        np.testing.assert_allclose(
            angular.clebsch_gordan(*degrees), e3nn_jax.clebsch_gordan(*degrees), atol=1e-12
        )


def test_clebsch_gordan_refuses_degrees_that_make_no_triangle():
    with pytest.raises(ValueError, match="no triangle"):
        angular.clebsch_gordan(1, 1, 3)


def test_harmonics_are_those_of_e3nn_with_z_as_the_axis():
    vectors = unit_vectors(7)
    ours = angular.spherical_harmonics(jnp.asarray(vectors), L_MAX)
    yzx = jnp.asarray(vectors[:, [1, 2, 0]])
    for degree, harmonics in enumerate(ours):
        irreps = e3nn_jax.Irreps([(1, (degree, (-1) ** degree))])
        theirs = e3nn_jax.spherical_harmonics(
            irreps, e3nn_jax.IrrepsArray("1o", yzx), True, "component"
        )
        np.testing.assert_allclose(harmonics, theirs.array, atol=1e-12)


def test_harmonics_are_orthonormal_on_the_sphere():
    # Gauss-Legendre in z and equal steps in φ integrate polynomials of degree 2 L_MAX exactly.
    z, weights = np.polynomial.legendre.leggauss(L_MAX + 1)
    phi = 2 * np.pi * np.arange(2 * L_MAX + 1) / (2 * L_MAX + 1)
    rho = np.sqrt(1 - z**2)[:, None]
    points = np.stack(
        [rho * np.cos(phi), rho * np.sin(phi), np.broadcast_to(z[:, None], (len(z), len(phi)))], -1
    ).reshape(-1, 3)
    mean = np.repeat(weights / 2 / len(phi), len(phi))
    values = np.concatenate(angular.spherical_harmonics(jnp.asarray(points), L_MAX), axis=-1)
    overlaps = np.einsum("p,pa,pb->ab", mean, values, values)
    np.testing.assert_allclose(overlaps, np.eye((L_MAX + 1) ** 2), atol=1e-13)


def test_products_couple_equivariantly():
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    vectors = unit_vectors(20)
    before = angular.spherical_harmonics(jnp.asarray(vectors), L_MAX)
    after = angular.spherical_harmonics(jnp.asarray(vectors @ rotation.T), L_MAX)
    turn = [
        np.linalg.lstsq(np.array(x), np.array(y), rcond=None)[0]
        for x, y in zip(before, after, strict=True)
    ]
    for a, b, c in TRIANGLES:
        tensor = angular.clebsch_gordan(a, b, c)
        turned = np.einsum("ijk,ai,bj,ck->abc", tensor, turn[a], turn[b], turn[c])
        np.testing.assert_allclose(turned, tensor, atol=1e-12)


def test_harmonics_of_a_zero_vector_have_finite_derivatives():
    def total(vector):
        return sum(jnp.sum(y) for y in angular.spherical_harmonics(vector, L_MAX))

    hessian = jax.hessian(total)(jnp.zeros(3))
    assert np.all(np.isfinite(hessian))


@pytest.mark.parametrize("l_max", [0, 1, 2, 8])
def test_stacked_harmonics_are_the_same_functions(l_max):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    units = jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    stacked = jax.jit(angular.stacked_harmonics, static_argnums=1)(units, l_max)
    expected = np.concatenate(angular.spherical_harmonics(units, l_max), axis=-1)
    np.testing.assert_allclose(stacked, expected.T, atol=1e-13)
