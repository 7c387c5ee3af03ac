"""Angular distribution functions: counted in bins, or smooth and differentiable by positions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, edge_vectors, safe_norm
from mlip_jax.inference import require_precision
from mlip_jax.properties.structure import bin_shares

Triple = tuple[int, int, int]
"""Atomic numbers of a neighbour, of the central atom, and of the other neighbour."""


class AngularDistribution(NamedTuple):
    """A distribution of angles between two neighbours of an atom.

    Attributes:
        angles: middles of the bins, degrees.
        values: 1/degree; the integral over all angles is 1, or less by what a Gaussian puts
            beyond 0 and 180 degrees. Zero where there is no angle.
        number: mean number of angles at a central atom.
    """

    angles: Float[Array, " bins"]
    values: Float[Array, " bins"]
    number: Float[Array, ""]


def angular_distribution_fn(
    cutoff: float, bins: int = 180, width: float = 0.0, triple: Triple | None = None
) -> Callable[[AtomicGraph], AngularDistribution]:
    """Makes `graph -> AngularDistribution`, of all structures of the graph together.

    An angle between two neighbours within the cutoff counts one in its bin; with a width its share
    of each bin is that of a Gaussian about it. Then derivatives by positions exist, but for
    neighbours that cross the cutoff: put it where there are none, such as a minimum of g(r).

    Args:
        cutoff: Å; the graph's neighbour list must reach as far.
        bins: between 0 and 180 degrees.
        width: standard deviation of the Gaussian, degrees.
        triple: a neighbour, the central atom, the other neighbour; all where not given.
    """
    edges = np.linspace(0.0, 180.0, bins + 1)

    def distribution(graph: AtomicGraph) -> AngularDistribution:
        vectors = edge_vectors(graph)
        close = graph.edge_mask & (safe_norm(vectors) < cutoff)
        centre, one, other = _chosen(graph, close, triple)
        lines = jnp.asarray(edges, vectors.dtype)
        # The last bin has its upper edge, 180 degrees, in it.
        borders = lines if width > 0.0 else lines.at[-1].set(181.0)

        def of_atom(inputs: tuple[Array, Array, Array, Array]) -> Array:
            vectors, first, second, central = inputs
            pairs = first[:, None] & second[None, :] & central
            pairs &= ~jnp.eye(len(vectors), dtype=bool)
            shares = bin_shares(_angles(vectors, pairs), borders, width)
            return jnp.sum(jnp.where(pairs[..., None], shares, 0.0), axis=(0, 1))

        def number_of_pairs(first: Array, second: Array) -> Array:
            both = jnp.sum(first & second, axis=1)
            return jnp.sum(first, axis=1) * jnp.sum(second, axis=1) - both

        shares = jax.lax.map(of_atom, (vectors, one, other, centre), batch_size=16)
        pairs = jnp.sum(jnp.where(centre, number_of_pairs(one, other), 0)).astype(vectors.dtype)
        # Two neighbours of one kind were counted in both orders.
        twice = 2.0 if triple is None or triple[0] == triple[2] else 1.0
        return AngularDistribution(
            angles=0.5 * (lines[1:] + lines[:-1]),
            values=jnp.sum(shares, axis=0) / jnp.maximum(pairs, 1.0) / (180.0 / bins),
            number=pairs / twice / jnp.maximum(jnp.sum(centre), 1),
        )

    return distribution


def angular_distribution(
    structures: Structure | Sequence[Structure],
    cutoff: float,
    bins: int = 180,
    width: float = 0.0,
    triple: Triple | None = None,
) -> AngularDistribution:
    """The mean angular distribution function of structures, in float64; numbers on the host.

    Args:
        structures: one, or frames of a trajectory.
        cutoff: Å, within which atoms are neighbours.
        bins: number of bins.
        width: of the Gaussian that an angle is smeared by, degrees; 0 counts.
        triple: a neighbour, the central atom, the other neighbour; all where not given.

    Raises:
        UserError: where no atom has two such neighbours, or for numbers that are not positive.
    """
    listed = [structures] if isinstance(structures, Structure) else list(structures)
    if cutoff <= 0.0 or bins < 1 or width < 0.0:
        raise UserError(
            f"angular distribution: got cutoff {cutoff:g} Å, {bins} bins and width {width:g}°; "
            "expected a positive cutoff, bins, and a width that is not negative."
        )
    dtype = require_precision("float64")
    graph = jax.tree.map(jnp.asarray, make_graph(listed, cutoff, dtype=dtype))
    found = jax.device_get(jax.jit(angular_distribution_fn(cutoff, bins, width, triple))(graph))
    if not found.number > 0.0:
        raise UserError(
            f"angular distribution: no atom has two neighbours within {cutoff:g} Å"
            f"{'' if triple is None else f' of the atomic numbers {triple}'}. Enlarge the cutoff, "
            "or choose other elements."
        )
    return found


def _chosen(graph: AtomicGraph, close: Array, triple: Triple | None) -> tuple[Array, Array, Array]:
    """Mask of central atoms, and for each the masks of both neighbours."""
    if triple is None:
        return graph.atom_mask, close, close
    numbers = graph.atomic_numbers
    one, other = (close & (numbers[graph.neighbors] == triple[k]) for k in (0, 2))
    return graph.atom_mask & (numbers == triple[1]), one, other


def _angles(
    vectors: Float[Array, "neighbors 3"], pairs: Array
) -> Float[Array, "neighbors neighbors"]:
    """Degrees between vectors; right angles where there is no pair."""
    sine = safe_norm(jnp.cross(vectors[:, None, :], vectors[None, :, :]))
    cosine = vectors @ vectors.T
    # Without a pair both may vanish, where the angle has no derivative.
    return jnp.rad2deg(jnp.arctan2(jnp.where(pairs, sine, 1.0), jnp.where(pairs, cosine, 0.0)))
