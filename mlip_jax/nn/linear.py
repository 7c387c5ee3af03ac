"""Regressors that are linear in their parameters, with one set of coefficients per element."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BLOCK = 32


class Linear(nn.Module):
    """`Σ_k c_k x_k`, with the coefficients of the atom's element.

    Without a constant: that is the reference energy of the element.

    Attributes:
        shared: one set of coefficients for all elements, for features that are those of pairs.
    """

    shared: bool = False

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], element: Int[Array, " atoms"], elements: int
    ) -> Float[Array, " atoms"]:
        """Output of each atom.

        Args:
            features: x.
            element: index of each atom's element.
            elements: number of elements.
        """
        sets = 1 if self.shared else elements
        return _dot(features, _coefficients(self, sets, features.shape[-1]), element)


class Quadratic(nn.Module):
    """`Σ_k c_k x_k + ½ Σ_k d_kk x_k² + Σ_(k<l) d_kl x_k x_l`, with coefficients of the element.

    The coefficients c come first, then d row by row of the upper triangle: the order and the
    halves of LAMMPS's `quadraticflag`.
    """

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], element: Int[Array, " atoms"], elements: int
    ) -> Float[Array, " atoms"]:
        """Output of each atom, see `Linear`."""
        size = features.shape[-1]
        coefficients = _coefficients(self, elements, size + size * (size + 1) // 2)
        coefficients = coefficients.astype(features.dtype)
        rows, columns = jnp.triu_indices(size)
        halves = jnp.where(rows == columns, 0.5, 1.0).astype(features.dtype)
        upper = coefficients[:, size:] * halves[None]
        matrices = jnp.zeros((elements, size, size), features.dtype)
        matrices = matrices.at[:, rows, columns].set(upper)
        squares = [jnp.sum((features @ m) * features, axis=-1) for m in matrices]
        picked = jax.nn.one_hot(element, elements, dtype=features.dtype)
        products = (
            squares[0] if elements == 1 else jnp.einsum("ei,ie->i", jnp.stack(squares), picked)
        )
        return _dot(features, coefficients[:, :size], element) + products


def _coefficients(module: nn.Module, elements: int, size: int) -> Float[Array, "elements _"]:
    normal = nn.initializers.normal(1.0 / max(size, 1) ** 0.5)
    return module.param("coefficients", normal, (elements, size))


def _dot(features: Array, coefficients: Array, element: Array) -> Array:
    """Sums of products, in blocks: of many large terms that cancel, as potentials have them.

    In one sum float32 would round as often as there are terms; in blocks of 32, some 32 times.
    """
    coefficients = coefficients.astype(features.dtype)
    if coefficients.shape[0] > 1:
        coefficients = coefficients[element]
    products = features * coefficients
    missing = -products.shape[1] % _BLOCK
    blocks = jnp.pad(products, ((0, 0), (0, missing))).reshape(products.shape[0], -1, _BLOCK)
    return jnp.sum(jnp.sum(blocks, axis=-1), axis=-1)
