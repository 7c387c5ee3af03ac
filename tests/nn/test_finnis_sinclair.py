"""Functions of densities: limits, slopes, and formulae written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.nn.finnis_sinclair import power

VALUES = np.array([-700.0, -3.0, -0.4, -1e-4, 0.0, 1e-4, 0.4, 3.0, 700.0])


def compiled(form, exponent):
    function = jax.jit(lambda x: power(x, exponent, form))
    slope = jax.jit(jax.vmap(jax.grad(lambda x: power(x, exponent, form))))
    return function, slope


def test_shifted_and_scaled():
    function, slope = compiled("shifted_scaled", 0.5)
    a = np.abs(VALUES)
    # n = 1 / m = 2: n^(n / (1 - n)) = 1/4 and n^(1 / (1 - n)) = 1/2.
    expected = np.sign(VALUES) * (np.sqrt(0.25 * np.exp(-a) + a) - 0.5 * np.exp(-a))
    np.testing.assert_allclose(function(VALUES), expected, rtol=1e-13, atol=1e-15)
    h = 1e-6
    differences = (function(VALUES + h) - function(VALUES - h)) / (2 * h)
    np.testing.assert_allclose(slope(VALUES), differences, rtol=1e-6)


def test_the_first_power_is_the_density_itself():
    np.testing.assert_array_equal(compiled("shifted_scaled", 1.0)[0](VALUES), VALUES)


def test_smoothed():
    function, slope = compiled("smoothed", 0.5)
    large = np.abs(VALUES) >= 1e-4
    expected = np.sign(VALUES) * np.sqrt(np.abs(VALUES))
    np.testing.assert_allclose(function(VALUES)[large], expected[large], rtol=1e-13)
    tiny = np.array([-1e-9, 0.0, 1e-12, 1e-9])
    np.testing.assert_allclose(function(tiny), 1000.0 * tiny, rtol=1e-4)
    np.testing.assert_allclose(slope(tiny), 1000.0, rtol=1e-4)


@pytest.mark.parametrize("form", ["shifted_scaled", "smoothed"])
def test_slopes_are_finite_in_single_precision(form):
    _, slope = compiled(form, 0.5)
    x = jnp.asarray([-1e30, -1.0, -1e-11, 0.0, 3e-6, 1.0, 1e30], jnp.float32)
    values = slope(x)
    assert values.dtype == jnp.float32
    assert np.all(np.isfinite(values))
    assert np.all(values >= 0.0)
