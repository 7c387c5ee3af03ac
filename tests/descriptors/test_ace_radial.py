"""Radial functions of the cluster expansion: formulae, limits, tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate

from mlip_jax.descriptors import ace_radial
from mlip_jax.descriptors.ace_radial import Bond

CUTOFF = 4.0
NUMBER = 4
R = np.array([0.3, 1.1, 2.3, 3.4, 3.97, 3.995])
BONDS = {
    "cheb_exp_cos": Bond("cheb_exp_cos", CUTOFF, 3.0, 0.05),
    "cheb_pow": Bond("cheb_pow", CUTOFF, 2.5),
    "cheb_linear": Bond("cheb_linear", CUTOFF),
    "bessel": Bond("bessel", CUTOFF, inner=(0.9, 0.5)),
}
CORE = Bond("bessel", CUTOFF, core=(-50.0, 1.3), inner=(2.0, 1.5))

radial_functions = jax.jit(ace_radial.radial_functions, static_argnums=(1, 2, 3))
core_repulsion = jax.jit(ace_radial.core_repulsion, static_argnums=(1, 2))


def chebyshev(n, x):
    return np.cos(n * np.arccos(x))


def step(r, end, width):
    """Falls from 1 at `end - width` to 0 at `end`: 1 - 10 t³ + 15 t⁴ - 6 t⁵."""
    t = np.clip((r - end + width) / width, 0.0, 1.0)
    return 1.0 - t**3 * (10.0 - 15.0 * t + 6.0 * t * t)


def test_chebyshev_polynomials_of_an_exponential():
    scaled = (np.exp(-3.0 * R / CUTOFF) - np.exp(-3.0)) / (1.0 - np.exp(-3.0))
    envelope = 0.5 * (1.0 + np.cos(np.pi * R / CUTOFF))
    last = 0.5 * (1.0 + np.cos(np.pi * np.maximum(R - 3.95, 0.0) / 0.05))
    functions = [np.ones_like(R)]
    functions += [0.5 * (1.0 - chebyshev(n, 1.0 - 2.0 * scaled)) for n in range(1, NUMBER)]
    expected = np.stack(functions, axis=1) * (envelope * last)[:, None]
    found = radial_functions(jnp.asarray(R), BONDS["cheb_exp_cos"], NUMBER)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["cheb_pow", "cheb_linear"])
def test_chebyshev_polynomials_of_a_power(name):
    y = 1.0 - R / CUTOFF
    x = 1.0 - 2.0 * y**2.5 if name == "cheb_pow" else y
    expected = np.stack([0.5 * (1.0 - chebyshev(n, x)) for n in range(1, NUMBER + 1)], axis=1)
    found = radial_functions(jnp.asarray(R), BONDS[name], NUMBER)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_bessel_functions_are_orthonormal():
    """With the weight r²; Kocer et al. (2020), section II B."""
    x, weights = np.polynomial.legendre.leggauss(60)
    r = 0.5 * CUTOFF * (x + 1.0)
    g = np.asarray(radial_functions(jnp.asarray(r), Bond("bessel", CUTOFF), NUMBER))
    overlap = np.einsum("i,ia,ib->ab", weights * 0.5 * CUTOFF * r * r, g, g)
    np.testing.assert_allclose(overlap, np.eye(NUMBER), atol=1e-12)


def test_an_inner_range_has_the_repulsion_and_nothing_else():
    inner = np.asarray(radial_functions(jnp.asarray(R), BONDS["bessel"], NUMBER))
    plain = np.asarray(radial_functions(jnp.asarray(R), Bond("bessel", CUTOFF), NUMBER))
    np.testing.assert_allclose(inner, plain * (1.0 - step(R, 0.9, 0.5))[:, None], atol=1e-14)
    assert np.all(inner[0] == 0.0)
    envelope = 0.5 * (1.0 + np.cos(np.pi * R / CUTOFF))
    expected = 50.0 * np.exp(-1.3 * R * R) / R * envelope * step(R, 2.0, 1.5)
    np.testing.assert_allclose(core_repulsion(jnp.asarray(R), CORE), expected, atol=1e-14)


@pytest.mark.parametrize("name", BONDS)
def test_functions_are_finite_everywhere_and_zero_from_the_cutoff_on(name):
    r = jnp.asarray([0.0, 1e-8, 0.3, CUTOFF - 1e-9, CUTOFF, CUTOFF + 0.2, 1000.0])

    def total(x):
        bond = dataclasses.replace(BONDS[name], core=(4.0, 1.0))
        return jnp.sum(radial_functions(x, bond, NUMBER)) + jnp.sum(core_repulsion(x, bond))

    slopes = jax.jit(jax.grad(total))(r)
    curvatures = jax.jit(lambda x: jax.jvp(jax.grad(total), (x,), (jnp.ones_like(x),))[1])(r)
    assert np.all(np.isfinite(slopes))
    assert np.all(np.isfinite(curvatures))
    values = radial_functions(r, BONDS[name], NUMBER)
    for outside in (values[4:], slopes[4:], curvatures[4:]):
        assert np.all(outside == 0.0)
    if name != "cheb_linear":
        np.testing.assert_allclose(values[3], 0.0, atol=1e-8)


@pytest.mark.parametrize("name", BONDS)
def test_tables_are_hermite_splines_with_exact_slopes(name):
    """Against scipy's spline through values and slopes at the same knots."""
    bond, width = BONDS[name], 0.03
    bins = int(CUTOFF / width)
    knots = jnp.asarray(np.arange(1, bins) * (CUTOFF / bins))
    values, slopes = jax.jvp(
        lambda x: radial_functions(x, bond, NUMBER), (knots,), (jnp.ones_like(knots),)
    )
    ends = np.append(knots, CUTOFF)
    values, slopes = (np.vstack([v, np.zeros(NUMBER)]) for v in (values, slopes))
    expected = scipy.interpolate.CubicHermiteSpline(ends, values, slopes)(R)
    found = radial_functions(jnp.asarray(R), bond, NUMBER, width)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_fine_table_of_the_repulsion_is_the_repulsion():
    r = jnp.asarray(R + 4e-4)  # between knots
    # Fourth derivatives of some 1e6 times the width to the fourth over 384.
    exact, table = core_repulsion(r, CORE), core_repulsion(r, CORE, 1e-3)
    np.testing.assert_allclose(table, exact, atol=1e-8)
    assert np.any(table != exact)
