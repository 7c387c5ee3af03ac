"""The atomic basis `Σ_j g_k(r_ij) Y_lm(r_ij)` of the atomic cluster expansion.

Drautz (2019), eq. 11. Harmonics are real, with component normalisation: Y_00 = 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.descriptors.ace_radial import Bond, core_repulsion, radial_functions
from mlip_jax.graph import safe_norm
from mlip_jax.nn import angular


@dataclasses.dataclass(frozen=True)
class Neighborhood:
    """Radial functions of all pairs of elements, evaluated at the neighbours of some atoms.

    Attributes:
        bonds: one for all pairs of elements, or one for each pair (central, neighbour), row by row.
        elements: number of elements.
        spline: width [Å] of the bins of tables; `None`: radial functions are analytic.
    """

    bonds: tuple[Bond, ...]
    elements: int
    spline: float | None = None

    def radial(
        self, r: Array, own: Array, neighbor: Array, number: int
    ) -> Float[Array, "atoms max_neighbors {number}"]:
        """Radial functions g_k of every pair."""
        return self._of_bond(
            own, neighbor, lambda bond: radial_functions(r, bond, number, self.spline)
        )

    def core(self, r: Array, own: Array, neighbor: Array) -> Float[Array, "atoms max_neighbors"]:
        """Core repulsion [eV] of every pair."""
        return self._of_bond(
            own, neighbor, lambda bond: core_repulsion(r, bond, self.spline), core=True
        )

    def _of_bond(
        self, own: Array, neighbor: Array, function: Callable[[Bond], Array], core: bool = False
    ) -> Array:
        """A function of each pair's own bond; equal bonds are evaluated once."""
        without = {} if core else {"core": (0.0, 0.0)}
        bonds = [dataclasses.replace(bond, **without) for bond in self.bonds]
        distinct = list(dict.fromkeys(bonds))
        result = function(distinct[0])
        if len(distinct) == 1:
            return result
        table = jnp.asarray([distinct.index(bond) for bond in bonds])
        kind = table[own[:, None] * self.elements + neighbor]
        for index, bond in enumerate(distinct[1:], 1):
            chosen = (kind == index).reshape(kind.shape + (1,) * (result.ndim - 2))
            result = jnp.where(chosen, function(bond), result)
        return result


def projections(
    vectors: Float[Array, "atoms max_neighbors 3"],
    radial: Float[Array, "atoms max_neighbors radial"],
    weights: Float[Array, "atoms max_neighbors channels"] | None,
    l_max: int,
    dtype: Any = None,
) -> Float[Array, "atoms channels radial components"]:
    """Weighted sums over the neighbours of `g_k Y_lm`.

    Args:
        vectors: Å.
        radial: g_k, zero where a slot does not count.
        weights: of each neighbour in the sums; `None`: there is one sum, of all.
        l_max: highest degree.
        dtype: of the sums; `None`: that of the vectors.
    """
    r = safe_norm(vectors)
    units = vectors / jnp.where(r > 0.0, r, 1.0)[..., None]
    harmonics = jnp.concatenate(angular.spherical_harmonics(units, l_max), axis=-1)
    number = radial.shape[-1]
    if weights is not None:
        radial = (weights[..., None] * radial[:, :, None, :]).reshape(*r.shape, -1)
    dtype = r.dtype if dtype is None else dtype
    sums = jnp.einsum("ijk,ijm->ikm", radial.astype(dtype), harmonics.astype(dtype))
    return sums.reshape(len(r), -1, number, sums.shape[-1])


def of_each_element(
    neighbor: Int[Array, "atoms max_neighbors"], elements: int, dtype: Any
) -> Float[Array, "atoms max_neighbors elements"] | None:
    """Weights with which there is a sum over the neighbours of each element.

    Args:
        neighbor: index of the element of each neighbour.
        elements: number of elements.
        dtype: of the weights.
    """
    return jax.nn.one_hot(neighbor, elements, dtype=dtype) if elements > 1 else None
