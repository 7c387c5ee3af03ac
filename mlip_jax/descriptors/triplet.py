"""Kernels between triplets of atoms: the descriptor of three-body Gaussian approximations.

A triplet is a central atom i and an unordered pair of its neighbours, with the coordinates

    q = (r_ij + r_ik, (r_ij - r_ik)², r_jk),

which do not change where j and k are exchanged. With a linear regressor its energy is
`f_c(r_ij) f_c(r_ik) Σ_s α_s exp(-½ Σ_d ((q_d - q_sd) / θ_d)²)`; A. P. Bartók, G. Csányi, Int. J.
Quantum Chem. 115, 1051 (2015); `angle_3b` of QUIP.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.angles import element_pairs, meetings, once, turns
from mlip_jax.descriptors.envelopes import transition
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, prefix_length, safe_norm
from mlip_jax.nn import sparse_points
from mlip_jax.nn.gaussian_process import whitening

_GRID = 24
"""Distances of the grid of triangles that sparse points are chosen from."""


class TripletKernel(nn.Module):
    """`Σ_(j<k) f_c(r_ij) f_c(r_ik) φ_s(q)` of each atom, pair of neighbour elements by pair.

    The functions `φ = L⁻¹ k` are those of a Gaussian process with a squared-exponential kernel and
    sparse points q_s, whose matrix is `L Lᵀ`, as those of `distance.DistanceKernel`. The element
    of the central atom has coefficients of its own, those of a linear regressor.

    Attributes:
        species: atomic numbers.
        cutoff: Å, of both neighbours.
        cutoff_transition_width: Å, over which f_c falls to 0, as a cosine.
        theta: widths of the kernel along q, Å, Å² and Å.
        points: sparse points q_s. `None`: `num_sparse` triangles with sides from `min_distance`,
            each next one the farthest from those chosen, in units of θ.
        num_sparse: sparse points, where none are given.
        min_distance: Å, shortest side; `None` takes the shortest distance of the training data
            (1 Å where there are none).
        jitter: added to the diagonal of the matrix of k before it is factorised. It bounds the
            weights of kernels that cancel, and so what float32 loses.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 3.5
    cutoff_transition_width: float = 0.5
    theta: tuple[float, float, float] = (1.0, 1.0, 1.0)
    points: tuple[tuple[float, float, float], ...] | None = None
    num_sparse: int = 50
    min_distance: float | None = None
    jitter: float = 1e-6

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Features of every atom: for each pair of neighbour elements, all φ_s.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        table = self._table(edge_vectors(graph).dtype)

        def block(vectors: Array, neighbor: Array) -> Array:
            sides = _sides(vectors)
            chosen = self._chosen(neighbor, vectors.dtype)
            kernels = self._kernels(*(safe_norm(side) for side in sides))
            sums = jnp.einsum("iptj,itjs->ips", chosen, kernels, precision="highest")
            return jnp.matmul(sums, table, precision="highest").reshape(len(sums), -1)

        return map_atom_blocks(block, graph, *self._pairs(graph))

    def pair_jacobian(
        self, graph: AtomicGraph
    ) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors 3 features"]]:
        """Features and their derivatives by the pair vectors [1/Å]: by the sides of triangles."""
        vectors, neighbor = self._pairs(graph)
        sides = _sides(vectors)
        lengths = tuple(safe_norm(side) for side in sides)
        first, second, third = (
            side / jnp.where(r > 0.0, r, 1.0)[..., None]
            for side, r in zip(sides, lengths, strict=True)
        )
        by_length = jax.vmap(lambda way: jax.jvp(self._kernels, lengths, tuple(way))[1])(
            jnp.broadcast_to(
                jnp.eye(3, dtype=vectors.dtype)[:, :, None, None, None], (3, 3, *lengths[2].shape)
            )
        )
        chosen = self._chosen(neighbor, vectors.dtype)
        sum_pairs = functools.partial(jnp.einsum, "iptj,itjc,itjs->ijcps", precision="highest")
        here = sum_pairs(chosen, first, by_length[0]) + sum_pairs(chosen, third, by_length[2])
        who = turns(vectors.shape[1]).reshape(vectors.shape[1], *lengths[2].shape[1:])
        move = functools.partial(
            jnp.einsum, "ktj,iptj,itjc,itjs->ikcps", jnp.asarray(who, vectors.dtype)
        )
        there = move(chosen, second, by_length[1]) - move(chosen, third, by_length[2])
        jacobian = (here + there) @ self._table(vectors.dtype)
        jacobian = jacobian.reshape(*vectors.shape, -1)
        missing = graph.max_neighbors - vectors.shape[1]
        return self(graph), jnp.pad(jacobian, ((0, 0), (0, missing), (0, 0), (0, 0)))

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Zero: there are no triplets."""
        elements = len(self._checked_species())
        size = len(element_pairs(elements)) * len(self.sparse_points())
        return np.zeros((elements, size))

    def sparse_points(self) -> Float[np.ndarray, "points 3"]:
        """Sparse points q_s, in Å, Å² and Å."""
        if self.points is not None:
            return np.array(self.points)
        inner = 1.0 if self.min_distance is None else min(self.min_distance, 0.5 * self.cutoff)
        return _triangles(inner, self.cutoff, self.theta, self.num_sparse)

    def _pairs(self, graph: AtomicGraph) -> tuple[Array, Array]:
        """Vectors to the nearest neighbours, and their elements."""
        element = species_index(graph.atomic_numbers, self._checked_species())
        k = prefix_length(graph, self.cutoff)
        return edge_vectors(graph)[:, :k], element[graph.neighbors[:, :k]]

    def _kernels(self, near: Array, far: Array, apart: Array) -> Array:
        """Weighted kernels with all points, `[atoms, turns, neighbors, points]`, of the sides."""
        weight = self._cut(near) * self._cut(far) * once(near.shape[-1], near.dtype)[None]
        # Beyond the cutoff the weight is zero; padded slots are far away.
        a, b = jnp.minimum(near, self.cutoff), jnp.minimum(far, self.cutoff)
        c = jnp.minimum(apart, 2.0 * self.cutoff)
        scaled = (self.sparse_points() / np.array(self.theta)).T
        points = jnp.asarray(scaled[:, None, None, None, :], near.dtype)
        squares = jnp.zeros((), near.dtype)
        for d, q in enumerate((a + b, (a - b) ** 2, c)):
            squares = squares + (q[..., None] / self.theta[d] - points[d]) ** 2
        return weight[..., None] * jnp.exp(-0.5 * squares)

    def _cut(self, r: Array) -> Array:
        return transition(r, self.cutoff, self.cutoff_transition_width)

    def _chosen(self, neighbor: Array, dtype) -> Array:
        """Which triplets belong to each pair of elements, `[atoms, pairs, turns, neighbors]`."""
        elements = len(self._checked_species())
        number = neighbor.shape[1]
        if elements == 1:
            return jnp.ones((len(neighbor), 1, number // 2, number), dtype)
        one_hot = jnp.swapaxes(jax.nn.one_hot(neighbor, elements, dtype=dtype), 1, 2)
        mine, other = meetings(one_hot)
        chosen = [
            mine[:, e] * other[:, f] + (mine[:, f] * other[:, e] if e != f else 0.0)
            for e, f in element_pairs(elements)
        ]
        return jnp.stack(chosen, axis=1)

    def _table(self, dtype) -> Array:
        """`L⁻ᵀ`, `[points, points]`."""
        self._checked_species()
        points = tuple(map(tuple, self.sparse_points().tolist()))
        return jnp.asarray(whitening_of(points, self.theta, self.jitter), dtype)

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "triplet_kernel: got no species; expected atomic numbers. Give species, or let "
                "training take them from the data."
            )
        if not 0.0 < self.cutoff_transition_width <= self.cutoff or min(self.theta) <= 0.0:
            raise UserError(
                f"triplet_kernel: got a transition of {self.cutoff_transition_width} Å and theta ="
                f" {self.theta}; expected positive widths, the first at most the cutoff."
            )
        return self.species


@functools.cache
def whitening_of(
    points: tuple[tuple[float, float, float], ...],
    theta: tuple[float, float, float],
    jitter: float,
) -> Float[np.ndarray, "points points"]:
    """`L⁻ᵀ` of the matrix of the kernel between sparse points."""
    scaled = np.array(points) / np.array(theta)
    squares = np.sum((scaled[:, None] - scaled[None, :]) ** 2, axis=-1)
    return whitening(np.exp(-0.5 * squares), jitter)


@functools.cache
def _triangles(
    inner: float, cutoff: float, theta: tuple[float, float, float], number: int
) -> Float[np.ndarray, "points 3"]:
    """Coordinates of triangles far from each other, with two sides of at most the cutoff."""
    sides = np.linspace(inner, cutoff, _GRID)
    a, b, share = np.meshgrid(sides, sides, np.linspace(0.0, 1.0, _GRID), indexing="ij")
    shortest = np.maximum(inner, np.abs(a - b))
    c = shortest + share * (a + b - shortest)
    triangles = np.stack([a + b, (a - b) ** 2, c], axis=-1)[a >= b]
    return sparse_points.select(triangles / np.array(theta), number, "farthest") * np.array(theta)


def _sides(vectors: Array) -> tuple[Array, Array, Array]:
    """Sides r_ij, r_ik and r_ij - r_ik of all triangles, `[atoms, turns, neighbors, 3]` each."""
    here, there = meetings(jnp.swapaxes(vectors, 1, 2))
    here = jnp.broadcast_to(here, there.shape)
    here, there = (jnp.moveaxis(side, 1, -1) for side in (here, there))
    return here, there, here - there
