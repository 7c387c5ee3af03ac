"""The rows of a graph from a list with a skin: the pairs within the cutoff at present."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import pair_groups
from mlip_jax.graph import PADDED_DISTANCE, AtomicGraph
from mlip_jax.neighbors.device import CANDIDATES, DeviceNeighbors
from mlip_jax.neighbors.linked_cells import first_true, sort_key

PACKED_SHIFT = 512
"""Images further than this from the cell are out of range of the packed comparison of shifts."""


def to_graph(
    template: AtomicGraph,
    neighbors: DeviceNeighbors,
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
) -> tuple[AtomicGraph, DeviceNeighbors]:
    """The graph of the pairs within the cutoff, as the host would build it.

    Args:
        template: graph of one structure that gives what does not change; it may have more (padded)
            atoms, and its own rows do not matter. `reverse` is filled where it has one.
        neighbors: a list that is not stale.
        positions: Å, of the atoms that are not padding.
        cell: Å.

    Returns:
        The graph, and the list with the sizes that were needed noted.
    """
    indices, shifts, mask, counts = _active_rows(neighbors, positions, cell)
    capacity = neighbors.capacity
    largest = [jnp.max(each) for each in counts.values()]
    rooms = [
        pair_groups.room(counts[cutoff], template.num_atoms, jnp)
        for cutoff, _ in capacity.pair_rooms
    ]
    lengths = jnp.array([*largest[1:], *rooms], jnp.int32)
    needed = neighbors.needed.at[1].max(largest[0]).at[3:].max(lengths)
    extra = template.num_atoms - positions.shape[0]
    own = jnp.arange(positions.shape[0], template.num_atoms, dtype=indices.dtype)
    own = jnp.broadcast_to(own[:, None], (extra, indices.shape[1]))
    graph = dataclasses.replace(
        template,
        positions=jnp.pad(positions, ((0, extra), (0, 0))),
        cell=cell[None],
        neighbors=jnp.concatenate([indices, own]),
        shifts=jnp.pad(shifts, ((0, extra), (0, 0), (0, 0))),
        edge_mask=jnp.pad(mask, ((0, extra), (0, 0))),
        reverse=None,
        prefixes=capacity.prefixes,
        pair_rooms=capacity.pair_rooms,
    )
    if template.reverse is not None:
        graph = dataclasses.replace(graph, reverse=_reverse(graph))
    return graph, dataclasses.replace(neighbors, needed=needed)


def shortest_distance(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> Float[Array, ""]:
    """Smallest distance [Å] of two atoms; 1000 where none are within the cutoff.

    In one program with `to_graph` it costs a minimum: the compiler takes the distances once.
    """
    squares, inside = _distances(neighbors, positions, cell)
    return jnp.sqrt(jnp.min(jnp.where(inside, squares, PADDED_DISTANCE**2)))


def _distances(neighbors, positions, cell):
    """Squared distances [Å^2] of the pairs of a list, and which are within the cutoff."""
    positions, cell = jax.lax.stop_gradient((positions, cell))
    offsets = neighbors.shifts.astype(cell.dtype) @ cell
    vectors = positions[neighbors.neighbors] - positions[:, None, :] + offsets
    squares = jnp.sum(vectors**2, axis=-1)
    return squares, neighbors.edge_mask & (squares < neighbors.cutoff**2)


def _active_rows(neighbors, positions, cell):
    """Entries of the rows within the cutoff: by distance where prefixes need it, else as built.

    Last, the neighbours of each atom within the cutoff and those of prefixes.
    """
    squares, inside = _distances(neighbors, positions, cell)
    prefixes = [c for c, _ in neighbors.capacity.prefixes]
    limits = (neighbors.cutoff, *prefixes)
    counts = {c: jnp.sum(inside & (squares < c**2), axis=1, dtype=jnp.int32) for c in limits}
    width = min(neighbors.capacity.active, inside.shape[1])
    if prefixes:
        _, slots = jax.lax.top_k(sort_key(squares, inside), width)
    else:
        slots = jax.vmap(lambda row: first_true(row, width))(inside)
    mask = jnp.take_along_axis(inside, slots, axis=1)
    if not prefixes:
        mask &= jnp.arange(width)[None] < jnp.sum(inside, axis=1)[:, None]
    own = jnp.arange(inside.shape[0], dtype=jnp.int32)[:, None]
    indices = jnp.where(mask, jnp.take_along_axis(neighbors.neighbors, slots, axis=1), own)
    shifts = jnp.take_along_axis(neighbors.shifts, slots[..., None], axis=1)
    return indices, jnp.where(mask[..., None], shifts, 0), mask, counts


def _reverse(graph: AtomicGraph) -> Int[Array, "atoms max_neighbors"]:
    """Flat slot of the opposite edge: in row j, the slot that holds i with the shift -S."""

    def packed(shifts):
        offset = shifts + PACKED_SHIFT
        return (offset[..., 0] << 20) | (offset[..., 1] << 10) | offset[..., 2]

    forward, backward = packed(graph.shifts), packed(-graph.shifts)
    width = graph.max_neighbors

    def row(atom):
        rows = graph.neighbors[atom]
        same = (graph.neighbors[rows] == atom) & (forward[rows] == backward[atom][:, None])
        opposite = rows * width + jnp.argmax(same & graph.edge_mask[rows], axis=1)
        own = atom * width + jnp.arange(width)
        return jnp.where(graph.edge_mask[atom], opposite, own).astype(jnp.int32)

    at_once = max(1, CANDIDATES // width**2)
    return jax.lax.map(row, jnp.arange(graph.num_atoms), batch_size=at_once)
