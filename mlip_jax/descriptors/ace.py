"""The atomic cluster expansion as a descriptor: invariant products of the atomic basis.

R. Drautz, Phys. Rev. B 99, 014104 (2019) and 102, 024104 (2020); G. Dusson et al., J. Comput. Phys.
454, 110946 (2022). Functions of order ν see ν neighbours at a time (body order ν + 1).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.ace_basis import Neighborhood, projections
from mlip_jax.descriptors.ace_functions import Selection, functions, orders, sizes
from mlip_jax.descriptors.ace_radial import Bond, RadialName
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, safe_norm


class ClusterExpansion(nn.Module):
    """Invariant functions of the atomic basis `A_(z n l m) = Σ_j g_n(r_ij) Y_lm(r_ij)`.

    The sum runs over neighbours of element z. Functions of each order are all products of A within
    the bounds, with every independent coupling.

    Attributes:
        species: atomic numbers.
        cutoff: Å.
        n_max: radial functions of each order, from 1.
        l_max: highest degree of each order; 0 for order 1.
        degree: bound on `Σ (n + l)` of each order, n from 0; `None`: there is none.
        radial: the radial functions, see `ace_radial`.
        parameter: λ of their scaled distance; without meaning for Bessel functions.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    n_max: tuple[int, ...] = (12, 6, 4, 2)
    l_max: tuple[int, ...] = (0, 4, 3, 2)
    degree: tuple[int, ...] | None = None
    radial: RadialName = "bessel"
    parameter: float = 5.25

    @property
    def selection(self) -> Selection:
        """The functions of the expansion."""
        elements = len(self._checked_species())
        return Selection(elements, self.n_max, self.l_max, self.degree).checked()

    @property
    def bond(self) -> Bond:
        """Radial functions, of all pairs of elements."""
        return Bond(self.radial, self.cutoff, self.parameter)

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Functions of order 1 by (element, n), then those of higher orders.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        element = species_index(graph.atomic_numbers, self._checked_species())
        neighbor = element[graph.neighbors]

        def block(vectors: Array, neighbor: Array, own: Array) -> Array:
            return self.from_atomic_basis(self.atomic_basis(vectors, neighbor, own))

        return map_atom_blocks(block, graph, edge_vectors(graph), neighbor, element)

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Functions of an isolated atom of each element: zero."""
        selection = self.selection
        return np.zeros((selection.elements, sum(sizes(selection))))

    def atomic_basis(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms basis"]:
        """Sums over neighbours: those of order 1, then A of the higher orders."""
        selection = self.selection
        around = Neighborhood((self.bond,), selection.elements)
        basic = around.radial(safe_norm(vectors), own, neighbor, max(self.n_max))
        sums = projections(vectors, basic, neighbor, selection.elements, selection.highest)
        first = sums[:, :, : self.n_max[0], 0].reshape(len(vectors), -1)
        rest = sums[:, :, : selection.num_radial].reshape(len(vectors), -1)
        return jnp.concatenate([first, rest], axis=1)

    def from_atomic_basis(
        self, basis: Float[Array, "atoms basis"]
    ) -> Float[Array, "atoms features"]:
        """The functions, products of what `atomic_basis` gives."""
        selection = self.selection
        number = selection.elements * self.n_max[0]
        first, rest = basis[:, :number], basis[:, number:].T
        parts = [first, *(functions(rest, order).T for order in orders(selection))]
        return jnp.concatenate(parts, axis=1)

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "cluster_expansion: got no species; expected atomic numbers. Give species, or let "
                "training take them from the data."
            )
        return self.species
