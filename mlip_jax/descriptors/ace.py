"""The atomic cluster expansion as a descriptor: invariant products of the atomic basis.

R. Drautz, Phys. Rev. B 99, 014104 (2019) and 102, 024104 (2020); G. Dusson et al., J. Comput. Phys.
454, 110946 (2022). Functions of order ν see ν neighbours at a time (body order ν + 1). Channels of
elements: M. J. Willatt et al., Phys. Chem. Chem. Phys. 20, 29661 (2018); products of equal channels
only: J. P. Darby et al., Phys. Rev. Lett. 131, 028001 (2023).
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.ace_basis import Neighborhood, of_each_element, projections
from mlip_jax.descriptors.ace_functions import Selection, functions, orders, sizes, slopes
from mlip_jax.descriptors.ace_radial import Bond, RadialName
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, safe_norm

ChannelWeights = Literal["fixed", "trained"]
ChannelProducts = Literal["equal", "all"]


class ClusterExpansion(nn.Module):
    """Invariant functions of the atomic basis `A_(z n l m) = Σ_j g_n(r_ij) Y_lm(r_ij)`.

    The sum runs over neighbours of element z. Functions of each order are all products of A within
    the bounds, with every independent coupling: their number grows with a power of the number of
    elements. With `element_channels` it does not: sums run over all neighbours, with weights,
    `A_(c n l m) = Σ_j W_(z_j c) g_n Y_lm`.

    Attributes:
        species: atomic numbers.
        cutoff: Å.
        n_max: radial functions of each order, from 1.
        l_max: highest degree of each order; 0 for order 1.
        degree: bound on `Σ (n + l)` of each order, n from 0; `None`: there is none.
        radial: the radial functions, see `ace_radial`.
        parameter: λ of their scaled distance; without meaning for Bessel functions.
        element_channels: number of channels c; `None`: one for each element, of its neighbours.
        channel_weights: W are drawn and stay, or are drawn and trained.
        channel_products: of factors of equal channels only, or of all channels.
        seed: of weights that stay; those of an element do not depend on the other elements.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    n_max: tuple[int, ...] = (12, 6, 4, 2)
    l_max: tuple[int, ...] = (0, 4, 3, 2)
    degree: tuple[int, ...] | None = None
    radial: RadialName = "bessel"
    parameter: float = 5.25
    element_channels: int | None = None
    channel_weights: ChannelWeights = "fixed"
    channel_products: ChannelProducts = "equal"
    seed: int = 0

    def setup(self):
        """Weights of the channels, a parameter or a constant."""
        if self.element_channels is None:
            return
        species = self._checked_species()
        if self.channel_weights == "trained":
            shape = (len(species), self.element_channels)
            self.channels = self.param("channels", nn.initializers.normal(1.0), shape)
        else:
            arguments = (species, self.element_channels, self.seed)
            self.channels = self.variable("constants", "channels", _drawn, *arguments).value

    @property
    def sums(self) -> int:
        """Number of sums over neighbours for each n, l, m: of channels, or elements."""
        return self.element_channels or len(self._checked_species())

    @property
    def separate(self) -> int:
        """Number of sets of sums that have no products with those of other sets."""
        if self.element_channels is None or self.channel_products == "all":
            return 1
        return self.element_channels

    @property
    def selection(self) -> Selection:
        """The functions of each of the separate sets."""
        self._checked_species()
        kinds = self.sums // self.separate
        return Selection(kinds, self.n_max, self.l_max, self.degree).checked()

    @property
    def bond(self) -> Bond:
        """Radial functions, of all pairs of elements."""
        return Bond(self.radial, self.cutoff, self.parameter)

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Functions of order 1 by (element or channel, n), then those of higher orders.

        In each order those of equal channels come channel by channel.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        return map_atom_blocks(self.environment, graph, *self.pairs(graph))

    def pairs(self, graph: AtomicGraph) -> tuple[Array, Array, Array]:
        """Pair vectors [Å], elements of neighbours and of atoms: what features depend on."""
        element = species_index(graph.atomic_numbers, self._checked_species())
        return edge_vectors(graph), element[graph.neighbors], element

    def environment(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms features"]:
        """Features of some atoms, from their rows of `pairs`."""
        return self.from_atomic_basis(self.atomic_basis(vectors, neighbor, own))

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Functions of an isolated atom of each element: zero."""
        size = self.separate * sum(sizes(self.selection))
        return np.zeros((len(self._checked_species()), size))

    def atomic_basis(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms basis"]:
        """Sums over neighbours: those of order 1, then A of the higher orders."""
        selection = self.selection
        around = Neighborhood((self.bond,), len(self._checked_species()))
        basic = around.radial(safe_norm(vectors), own, neighbor, max(self.n_max))
        sums = projections(vectors, basic, self._weights(neighbor, basic.dtype), selection.highest)
        first = sums[:, :, : self.n_max[0], 0].reshape(len(vectors), -1)
        rest = sums[:, :, : selection.num_radial].reshape(len(vectors), -1)
        return jnp.concatenate([first, rest], axis=1)

    def from_atomic_basis(
        self, basis: Float[Array, "atoms basis"]
    ) -> Float[Array, "atoms features"]:
        """The functions, products of what `atomic_basis` gives."""
        selection = self.selection
        number = self.sums * self.n_max[0]
        first, rest = basis[:, :number], basis[:, number:]
        rows = rest.reshape(len(basis) * self.separate, selection.num_rows).T
        parts = [functions(rows, order).T.reshape(len(basis), -1) for order in orders(selection)]
        return jnp.concatenate([first, *parts], axis=1)

    def basis_slopes(
        self, basis: Float[Array, "atoms basis"]
    ) -> Float[Array, "atoms features basis"]:
        """Derivatives of what `from_atomic_basis` gives by the basis."""
        selection, atoms = self.selection, len(basis)
        number, sets = self.sums * self.n_max[0], self.separate
        rows = basis[:, number:].reshape(atoms * sets, selection.num_rows).T
        own = jnp.eye(sets, dtype=basis.dtype)[:, None, :, None]
        parts = []
        for order in orders(selection):
            of_set = slopes(rows, order).reshape(atoms, sets, order.size, 1, selection.num_rows)
            parts.append((of_set * own[None]).reshape(atoms, sets * order.size, -1))
        higher = jnp.concatenate([jnp.zeros((atoms, number, rows.size // atoms)), *parts], axis=1)
        first = jnp.eye(higher.shape[1], number, dtype=basis.dtype)
        first = jnp.broadcast_to(first, (atoms, *first.shape))
        return jnp.concatenate([first, higher.astype(basis.dtype)], axis=2)

    def _weights(self, neighbor: Array, dtype: Any) -> Array | None:
        """Weights of neighbours in the sums."""
        if self.element_channels is None:
            return of_each_element(neighbor, self.sums, dtype)
        return self.channels.astype(dtype)[neighbor]

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "cluster_expansion: got no species; expected atomic numbers. Give species, or let "
                "training take them from the data."
            )
        if self.element_channels is not None and self.element_channels < 1:
            raise UserError(
                f"cluster_expansion.element_channels: got {self.element_channels}; expected at "
                "least 1, or null for sums over the neighbours of each element."
            )
        return self.species


def _drawn(species: tuple[int, ...], channels: int, seed: int) -> Float[Array, "elements channels"]:
    """Normal weights, for each atomic number its own."""
    keys = [jax.random.fold_in(jax.random.key(seed), z) for z in species]
    return jnp.stack([jax.random.normal(key, (channels,), jnp.float32) for key in keys])
