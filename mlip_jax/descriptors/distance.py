"""Kernels between distances: the descriptor of two-body Gaussian approximation potentials.

With a linear regressor that elements share, the energy of every pair at distance r is
`f_c(r) Σ_s α_s exp(-(r - r_s)² / (2 θ²))`; A. P. Bartók, G. Csányi, Int. J. Quantum Chem. 115, 1051
(2015); `distance_2b` of QUIP.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.angles import element_pairs
from mlip_jax.descriptors.envelopes import transition
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, prefix_length, safe_norm
from mlip_jax.nn import chebyshev
from mlip_jax.nn.gaussian_process import whitening


class DistanceKernel(nn.Module):
    """`½ Σ_j f_c(r_ij) φ_k(r_ij)` over neighbours j, for every pair of elements apart.

    The functions `φ = L⁻¹ k` are those of a Gaussian process with the kernel
    `k_s(r) = exp(-(r - r_s)² / (2 θ²))` and sparse points r_s, whose matrix is `L Lᵀ`: a standard
    normal distribution of the coefficients of a linear regressor is the prior of the process.

    Attributes:
        species: atomic numbers.
        cutoff: Å.
        cutoff_transition_width: Å, over which f_c falls to 0, as a cosine.
        theta: Å.
        points: sparse points [Å] of each pair of elements e ≤ f in the order of the species.
            `None`: `num_sparse` points at equal distances, from `inner` to the cutoff.
        num_sparse: points of every pair, where none are given.
        inner: Å, below the distances that occur.
        jitter: added to the diagonal of the matrix of k before it is factorised.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    cutoff_transition_width: float = 0.5
    theta: float = 1.0
    points: tuple[tuple[float, ...], ...] | None = None
    num_sparse: int = 15
    inner: float = 1.0
    jitter: float = 1e-8

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Features of every atom, pair of elements by pair.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        species = self._checked_species()
        element = species_index(graph.atomic_numbers, species)
        k = prefix_length(graph, self.cutoff)
        tables = self._tables(graph.positions.dtype)

        def block(vectors: Array, neighbor: Array, own: Array) -> Array:
            sums = self._sums(vectors, neighbor, max(len(table) for table in tables))
            mine = jax.nn.one_hot(own, len(species), dtype=sums.dtype)
            parts = []
            for (e, f), table in zip(element_pairs(len(species)), tables, strict=True):
                of_pair = mine[:, e, None] * sums[:, f]
                if e != f:
                    of_pair = of_pair + mine[:, f, None] * sums[:, e]
                parts.append(of_pair[:, : len(table)] @ table)
            return jnp.concatenate(parts, axis=1)

        vectors, neighbor = edge_vectors(graph)[:, :k], element[graph.neighbors[:, :k]]
        return map_atom_blocks(block, graph, vectors, neighbor, element)

    def _sums(self, vectors: Array, neighbor: Array, terms: int) -> Array:
        """`½ Σ_j f_c T_k(r_j)` over neighbours of each element, `[atoms, elements, terms]`."""
        r = safe_norm(vectors)
        y = 2.0 * jnp.minimum(r / self.cutoff, 1.0) - 1.0
        weight = 0.5 * transition(r, self.cutoff, self.cutoff_transition_width)
        of_element = jax.nn.one_hot(neighbor, len(self._checked_species()), dtype=r.dtype)
        return jnp.einsum("ije,kij->iek", of_element, chebyshev.polynomials(y, terms, weight))

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Zero: there are no pairs."""
        species = self._checked_species()
        size = sum(map(len, self.sparse_points(len(species))))
        return np.zeros((len(species), size))

    def sparse_points(self, elements: int) -> tuple[tuple[float, ...], ...]:
        """Sparse points [Å] of each pair of elements."""
        if self.points is not None:
            return self.points
        spaced = tuple(np.linspace(self.inner, self.cutoff, self.num_sparse).tolist())
        return (spaced,) * len(element_pairs(elements))

    def _tables(self, dtype) -> list[Array]:
        """Series of φ of each pair of elements, `[terms, points]`."""
        precision = float(jnp.finfo(dtype).eps)
        return [
            jnp.asarray(_series(points, self.theta, self.cutoff, self.jitter, precision), dtype)
            for points in self.sparse_points(len(self._checked_species()))
        ]

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "distance_kernel: got no species; expected atomic numbers. Give species, or let "
                "training take them from the data."
            )
        pairs = len(element_pairs(len(self.species)))
        if self.points is not None and len(self.points) != pairs:
            raise UserError(
                f"distance_kernel.points: got {len(self.points)} lists; expected one for each of "
                f"the {pairs} pairs of elements."
            )
        if not 0.0 < self.cutoff_transition_width <= self.cutoff or self.theta <= 0.0:
            raise UserError(
                f"distance_kernel: got a transition of {self.cutoff_transition_width} Å and theta ="
                f" {self.theta} Å; expected positive widths, the first at most the cutoff."
            )
        return self.species


def whitening_of(
    points: tuple[float, ...], theta: float, jitter: float
) -> Float[np.ndarray, "points points"]:
    """`L⁻ᵀ` of the matrix of the kernel between sparse points [Å]."""
    return whitening(_kernel(np.array(points), points, theta), jitter)


def _kernel(r: np.ndarray, points: tuple[float, ...], theta: float) -> np.ndarray:
    return np.exp(-0.5 * ((r[:, None] - np.array(points)[None, :]) / theta) ** 2)


@functools.cache
def _series(
    points: tuple[float, ...], theta: float, cutoff: float, jitter: float, precision: float
) -> Float[np.ndarray, "terms points"]:
    """Series in `T_k(2 r / r_c - 1)` of the functions φ."""
    if not points:
        return np.zeros((1, 0))
    # The series of the kernels is exact to rounding; whitening it leaves a shorter one.
    kernels = chebyshev.series(lambda y: _kernel(0.5 * cutoff * (1.0 + y), points, theta), 0.0)
    whitened = kernels @ whitening_of(points, theta, jitter)
    sizes = np.abs(whitened).max(axis=1)
    return whitened[: int(np.max(np.nonzero(sizes > precision * sizes.max())[0])) + 1]
