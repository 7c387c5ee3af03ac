import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.nn import chebyshev, radial, radial_series

CUTOFF = 5.0


def step(distances):
    """Two functions, one with a step at short distances, as trained networks have them."""
    return jnp.stack([1.0 / (1.0 + jnp.exp(2.0 * (distances - 1.0))), jnp.sin(distances)], axis=-1)


def test_a_series_is_the_function_and_its_derivative_to_the_precision():
    series = radial_series.radial_series(step, CUTOFF, 1e-6)
    assert series is not None
    assert series.shape[1] == 2
    r = jnp.linspace(0.0, 4.99, 60)[None]

    @jax.jit
    def values(r):
        envelope = radial.cosine_envelope(r, CUTOFF)
        found = radial_series.evaluate(jnp.asarray(series), r, envelope, CUTOFF)
        return found, envelope[..., None] * step(r)

    found, expected = values(r)
    # The precision is that of the first term left out; a few more of its size follow.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    slope, expected = jax.jvp(values, (r,), (jnp.ones_like(r),))[1]
    # At the ends of its interval a polynomial's derivative may be degree² times as large (Markov).
    limit = 1e-6 * series.shape[0] ** 2
    np.testing.assert_allclose(slope, expected, rtol=0, atol=limit)
    np.testing.assert_allclose(slope[:, 5:-5], expected[:, 5:-5], rtol=0, atol=0.05 * limit)


def test_beyond_the_cutoff_values_and_slopes_are_zero():
    series = jnp.asarray(radial_series.radial_series(step, CUTOFF, 1e-6))

    def total(r):
        envelope = radial.cosine_envelope(r, CUTOFF)
        return jnp.sum(radial_series.evaluate(series, r, envelope, CUTOFF))

    value, slope = jax.jit(jax.value_and_grad(total))(jnp.array([[CUTOFF, 6.0, 1000.0]]))
    assert value == 0.0
    np.testing.assert_array_equal(slope, 0.0)


def test_functions_that_vary_too_quickly_have_no_series():
    assert radial_series.radial_series(lambda r: np.sin(200.0 * r)[:, None], CUTOFF, 1e-6) is None


def test_in_products_a_series_is_the_same_sum():
    coefficients = 0.7 ** np.arange(29)[:, None] * np.random.default_rng(0).normal(size=(29, 3))
    y = jnp.linspace(-1.0, 1.0, 101)
    terms = chebyshev.polynomials(y, 29, jnp.cos(y))
    products = chebyshev.products(y, 29, jnp.cos(y))
    found = products @ chebyshev.product_coefficients(coefficients)
    assert products.shape == (101, 32)
    # float64, with another order of the sums
    np.testing.assert_allclose(found, jnp.einsum("ky,kc->yc", terms, coefficients), atol=1e-13)
