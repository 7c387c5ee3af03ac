import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mlip_jax.nn import spherical_bessel

CUTOFF, MAX_N, MAX_L = 4.0, 4, 5


def basis(r):
    return spherical_bessel.spherical_bessel(r, MAX_N, MAX_L, CUTOFF)


def test_functions_are_those_of_scipy_degree_after_degree():
    r = np.linspace(0.0, 3.99, 30)
    l = np.arange(MAX_L)[:, None]
    zeros = spherical_bessel.zeros(MAX_N, MAX_L)
    norms = np.sqrt(2.0 / CUTOFF**3) / np.abs(scipy.special.spherical_jn(l + 1, zeros))
    values = scipy.special.spherical_jn(l, zeros * r[:, None, None] / CUTOFF) * norms
    np.testing.assert_allclose(basis(jnp.asarray(r)), values.reshape(30, -1), atol=1e-14)


def test_zeros_are_those_of_tables():
    """Abramowitz and Stegun, table 10.6."""
    zeros = spherical_bessel.zeros(2, 4)
    table = [
        [3.141593, 6.283185],
        [4.493409, 7.725252],
        [5.763459, 9.095011],
        [6.987932, 10.417119],
    ]
    np.testing.assert_allclose(zeros, table, atol=5e-7)
    values = scipy.special.spherical_jn(np.arange(4)[:, None], zeros)
    np.testing.assert_allclose(values, 0.0, atol=1e-15)


def test_functions_of_a_degree_are_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r = 0.5 * CUTOFF * (nodes + 1.0)
    values = np.asarray(basis(jnp.asarray(r))).reshape(60, MAX_L, MAX_N)
    overlaps = np.einsum("i,iln,ilm->lnm", 0.5 * CUTOFF * weights * r**2, values, values)
    np.testing.assert_allclose(overlaps, np.tile(np.eye(MAX_N), (MAX_L, 1, 1)), atol=1e-13)


@pytest.mark.parametrize("r", [CUTOFF, 1000.0])
def test_nothing_is_left_beyond_the_cutoff(r):
    values, slopes = jax.jvp(basis, (jnp.array([r]),), (jnp.ones(1),))
    assert not np.any(values)
    assert not np.any(slopes)


def test_derivatives_are_finite_at_zero():
    third = jax.jacfwd(jax.jacfwd(jax.jacfwd(basis)))(jnp.array(0.0))
    assert np.isfinite(third).all()
    assert np.abs(third).max() > 0.1
