"""Sums in float64 inside programs of float32."""

import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.nn import double


def test_sums_of_float32_are_exact_to_its_rounding_and_so_are_derivatives():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2, 3, 400)).astype(np.float32)
    second = rng.normal(size=(2, 5, 400)).astype(np.float32)
    expected = np.einsum("iaj,izj->iaz", first.astype(float), second.astype(float))

    def sums(a, b):
        return double.einsum("iaj,izj->iaz", a, b)

    found = jax.jit(sums)(first, second)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    slopes = jax.jit(jax.grad(lambda a, b: jnp.sum(sums(a, b) ** 2), argnums=(0, 1)))(first, second)
    given = 2.0 * np.asarray(found, float)
    by_first = np.einsum("iaz,izj->iaj", given, second.astype(float))
    by_second = np.einsum("iaz,iaj->izj", given, first.astype(float))
    np.testing.assert_allclose(slopes[0], by_first, rtol=1e-7)
    np.testing.assert_allclose(slopes[1], by_second, rtol=1e-7)


def test_low_parts_complete_what_float32_holds():
    values = np.array([1.0 / 3.0, -21.47, 36000.1])
    low = double.low_part(values).astype(np.float32)
    whole = values.astype(np.float32).astype(float) + low
    np.testing.assert_allclose(whole, values, rtol=2e-14)
