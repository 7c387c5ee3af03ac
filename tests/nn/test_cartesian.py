import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.nn import cartesian


def test_matrices_and_their_parts_are_the_same_tensor():
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(2, 3, 3, 4)))
    x = jax.jit(cartesian.from_matrix)(matrix)
    np.testing.assert_allclose(jax.jit(cartesian.to_matrix)(x), matrix, atol=1e-15)
    expected = np.sum(np.asarray(matrix) ** 2, axis=(1, 2))
    np.testing.assert_allclose(jax.jit(cartesian.square_norm)(x), expected, rtol=1e-14)
    other = jnp.asarray(rng.normal(size=(2, 3, 3, 4)))
    expected = np.einsum("iabc,ibdc->iadc", matrix, other)
    product = jax.jit(cartesian.matrix_product)(matrix, other)
    np.testing.assert_allclose(product, expected, atol=1e-14)
    u = rng.normal(size=3)
    traceless = np.outer(u, u) - u @ u * np.eye(3) / 3.0
    found = cartesian.from_matrix(jnp.asarray(traceless[..., None])).symmetric[:, 0]
    np.testing.assert_allclose(cartesian.symmetric_part(jnp.asarray(u)), found, atol=1e-14)


def test_parts_are_isotropic_antisymmetric_and_symmetric_without_trace():
    rng = np.random.default_rng(1)
    x = cartesian.Tensors(*(jnp.asarray(rng.normal(size=(2, n, 4))) for n in (1, 3, 5)))
    for part, name in zip(x, x._fields, strict=True):
        only = jax.tree.map(jnp.zeros_like, x)._replace(**{name: part})
        matrix = np.asarray(jax.jit(cartesian.to_matrix)(only))
        transposed = np.swapaxes(matrix, 1, 2)
        if name == "vector":
            np.testing.assert_array_equal(matrix, -transposed)
            np.testing.assert_array_equal(matrix[:, [2, 0, 1], [1, 2, 0]], part)
        elif name == "symmetric":
            np.testing.assert_allclose(matrix, transposed, atol=1e-15)
            np.testing.assert_allclose(np.einsum("iaac->ic", matrix), 0.0, atol=1e-15)
        else:
            eye = np.eye(3)[None, :, :, None]
            np.testing.assert_array_equal(matrix, eye * np.asarray(part)[:, :, None, :])


def test_scaled_takes_weights_in_the_order_of_the_parts():
    x = cartesian.Tensors(*(jnp.ones((2, n, 4)) for n in (1, 3, 5)))
    weights = jnp.broadcast_to(jnp.arange(12.0), (2, 12))
    found = cartesian.scaled(weights, x)
    for k, part in enumerate(found):
        np.testing.assert_array_equal(part[1, 0], 4.0 * k + np.arange(4))
