"""Radial distribution functions: counted in bins, or smooth and differentiable by positions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, edge_vectors, safe_norm, volumes
from mlip_jax.inference import require_precision


class RadialDistribution(NamedTuple):
    """A radial distribution function.

    Attributes:
        distances: middles of the bins, Å.
        values: g(r): density of neighbours at a distance, over that of an ideal gas.
        neighbors: mean number of neighbours closer than the outer edge of each bin.
    """

    distances: Float[Array, " bins"]
    values: Float[Array, " bins"]
    neighbors: Float[Array, " bins"]


def radial_distribution_fn(
    cutoff: float, bins: int = 200, width: float = 0.0, pair: tuple[int, int] | None = None
) -> Callable[[AtomicGraph], RadialDistribution]:
    """Makes `graph -> RadialDistribution`, of all structures of the graph together.

    A pair counts one in the bin of its distance; with a width, its share of each bin is that of a
    Gaussian about the distance, so that derivatives by positions and cell exist. Structures are
    weighted by their numbers of central atoms; each has its own density.

    Args:
        cutoff: Å; the graph's neighbour list must reach as far, and three or more widths farther.
        bins: number of bins between 0 and the cutoff.
        width: standard deviation of the Gaussian, Å.
        pair: atomic numbers of the central atoms and their neighbours; all where not given.
    """
    edges = np.linspace(0.0, cutoff, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)

    def distribution(graph: AtomicGraph) -> RadialDistribution:
        centre, other = _chosen(graph, pair)
        distances = safe_norm(edge_vectors(graph))
        counted = graph.edge_mask & centre[:, None] & other[graph.neighbors]
        shares = bin_shares(distances, jnp.asarray(edges, distances.dtype), width)
        shares = jnp.sum(jnp.where(counted[..., None], shares, 0.0), axis=(0, 1))
        # How many neighbours an ideal gas of each structure's density would have in all.
        of_graph = jax.ops.segment_sum(
            other.astype(distances.dtype), graph.graph_index, graph.num_graphs
        )
        density = (of_graph / volumes(graph.cell))[graph.graph_index]
        ideal = jnp.sum(jnp.where(centre, density, 0.0)) * jnp.asarray(shells, distances.dtype)
        centres = jnp.sum(centre)
        return RadialDistribution(
            distances=jnp.asarray(0.5 * (edges[1:] + edges[:-1]), distances.dtype),
            values=shares / ideal,
            neighbors=jnp.cumsum(shares) / centres,
        )

    return distribution


def radial_distribution(
    structures: Structure | Sequence[Structure],
    cutoff: float = 6.0,
    bins: int = 200,
    width: float = 0.0,
    pair: tuple[int, int] | None = None,
) -> RadialDistribution:
    """The mean radial distribution function of structures, in float64; numbers on the host.

    Args:
        structures: one, or frames of a trajectory; periodic in all directions.
        cutoff: Å, largest distance; it may exceed half of the cell.
        bins: number of bins.
        width: of the Gaussian that a pair is smeared by, Å; 0 counts.
        pair: atomic numbers of the central atoms and their neighbours; all where not given.

    Raises:
        UserError: for a structure that is not periodic, or has no atoms of the pair, or numbers
            that are not positive.
    """
    listed = [structures] if isinstance(structures, Structure) else list(structures)
    if cutoff <= 0.0 or bins < 1 or width < 0.0:
        raise UserError(
            f"radial distribution: got cutoff {cutoff:g} Å, {bins} bins and width {width:g} Å; "
            "expected a positive cutoff, bins, and a width that is not negative."
        )
    for structure in listed:
        _check(structure, pair)
    dtype = require_precision("float64")
    graph = jax.tree.map(jnp.asarray, make_graph(listed, cutoff + 6.0 * width, dtype=dtype))
    program = jax.jit(radial_distribution_fn(cutoff, bins, width, pair))
    return jax.device_get(program(graph))


def smooth_distribution_fn(
    structure: Structure, distance: float, width: float, pair: tuple[int, int] | None = None
) -> Callable[[Float[Array, "atoms 3"], Float[Array, "3 3"]], Float[Array, ""]]:
    """Makes `(positions, cell) -> g(r)` at one distance, each pair a Gaussian about its own.

    All pairs of atoms and images are looked at: for systems of some hundred atoms, without a list.
    The images are those of a cell that is narrower by a tenth; where one needs more, g is NaN.

    Args:
        structure: elements, and a cell; others may be narrower by a tenth at least.
        distance: Å.
        width: standard deviation of the Gaussian, Å.
        pair: atomic numbers of the central atoms and their neighbours; all where not given.

    Raises:
        UserError: see `radial_distribution`.
    """
    _check(structure, pair)
    numbers = structure.atomic_numbers
    everything = np.arange(len(numbers))
    centre, other = (
        (everything, everything)
        if pair is None
        else (np.flatnonzero(numbers == number) for number in pair)
    )
    reach = distance + 6.0 * width
    heights = 0.9 / np.linalg.norm(np.linalg.inv(structure.cell), axis=0)
    # A wrapped vector is within half a height of each plane through the origin.
    most = np.floor(reach / heights + 0.5).astype(int)
    shifts = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1)
    shifts = shifts.reshape(-1, 3)
    same = centre[:, None] == other[None]
    itself = same[..., None] & ~np.any(shifts, axis=1)

    def at(positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]) -> Float[Array, ""]:
        inverse = jnp.linalg.inv(cell)
        needed = jnp.floor(reach * jnp.linalg.norm(inverse, axis=0) + 0.5)
        fractions = positions @ inverse
        between = fractions[other][None] - fractions[centre][:, None]
        between = between - jax.lax.stop_gradient(jnp.round(between))
        vectors = (between[:, :, None] + shifts[None, None]) @ cell
        apart = (safe_norm(vectors) - distance) / width
        counted = jnp.sum(jnp.where(itself, 0.0, jnp.exp(-0.5 * apart**2)))
        counted = counted / (np.sqrt(2.0 * np.pi) * width)
        density = len(other) / jnp.abs(jnp.linalg.det(cell))
        value = counted / (4.0 * np.pi * distance**2 * density * len(centre))
        return jnp.where(jnp.any(needed > most), jnp.nan, value)

    return at


def _chosen(graph: AtomicGraph, pair: tuple[int, int] | None) -> tuple[Array, Array]:
    """Masks of the central atoms and of their neighbours."""
    if pair is None:
        return graph.atom_mask, graph.atom_mask
    first, second = (graph.atom_mask & (graph.atomic_numbers == number) for number in pair)
    return first, second


def bin_shares(values: Array, edges: Array, width: float) -> Array:
    """Share of each value in each bin: all of it, or that of a Gaussian about it."""
    r = values[..., None]
    lines = edges.reshape((1,) * values.ndim + (-1,))
    if width == 0.0:
        below = (r < lines).astype(values.dtype)
    else:
        below = 0.5 * (1.0 + jax.lax.erf((lines - r) / (np.sqrt(2.0) * width)))
    return jnp.diff(below, axis=-1)


def _check(structure: Structure, pair: tuple[int, int] | None) -> None:
    name = structure.name or "structure"
    if not np.all(structure.pbc):
        raise UserError(
            f"radial distribution: {name} has pbc {np.asarray(structure.pbc).tolist()}; expected "
            "three periodic directions, which make a density."
        )
    if pair is not None and not np.all(np.isin(pair, structure.atomic_numbers)):
        raise UserError(
            f"radial distribution: {name} has no atoms of one of the atomic numbers {pair}; "
            "choose a pair that it has."
        )
