"""Structures with their neighbour lists become one padded `AtomicGraph`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import DTypeLike

from mlip_jax import pair_groups
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure, head_index
from mlip_jax.graph import AtomicGraph
from mlip_jax.neighbors.host import HostNeighbors, neighbor_list, neighbor_rows, wrap
from mlip_jax.neighbors.reciprocal import KRange, reciprocal_range

ROUNDING = 1e-3
"""Å, by which a distance on a device may be shorter, in float32, than on the host."""

INPUTS = ("total_charge", "spins")
"""Further inputs of models that a structure may have; fields of `AtomicGraph`, too."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A compiled shape.

    Attributes:
        graphs: structures in a batch.
        atoms: atoms in a batch; a multiple of `block`.
        max_neighbors: slots of a row.
        prefixes: `((cutoff, k), ...)`, see `AtomicGraph`.
        pair_rooms: `((cutoff, places), ...)`, see `AtomicGraph`.
        block: atoms processed at a time (0: all).
        k_range: see `AtomicGraph`.
    """

    graphs: int
    atoms: int
    max_neighbors: int
    prefixes: tuple[tuple[float, int], ...] = ()
    block: int = 0
    k_range: KRange | None = None
    pair_rooms: tuple[tuple[float, int], ...] = ()


def exact_bucket(
    lists: Sequence[HostNeighbors],
    prefix_cutoffs: Sequence[float] = (),
    block: int = 0,
    k_range: KRange | None = None,
    pair_cutoffs: Sequence[float] = (),
) -> Bucket:
    """The smallest bucket that holds structures with these neighbour lists."""
    atoms = sum(len(pairs.counts) for pairs in lists)
    atoms = -(-atoms // block) * block if block else atoms
    return Bucket(
        graphs=len(lists),
        atoms=atoms,
        max_neighbors=max(1, *(pairs.max_count() for pairs in lists)),
        prefixes=tuple(
            (float(cutoff), max(1, *(pairs.max_count(cutoff) for pairs in lists)))
            for cutoff in prefix_cutoffs
        ),
        block=block,
        k_range=k_range,
        pair_rooms=pair_rooms(lists, atoms, pair_cutoffs),
    )


def pair_rooms(
    lists: Sequence[HostNeighbors], atoms: int, cutoffs: Sequence[float]
) -> tuple[tuple[float, int], ...]:
    """Room for the pairs of neighbours within cutoffs [Å], and those that rounding may count.

    Args:
        lists: neighbour lists of a batch.
        atoms: of the batch, padding included.
        cutoffs: Å.
    """
    rooms = []
    for cutoff in cutoffs:
        counts = np.concatenate([pairs.near(cutoff + ROUNDING) for pairs in lists])
        rooms.append((float(cutoff), int(pair_groups.room(counts, atoms))))
    return tuple(rooms)


def largest_range(structures: Sequence[Structure], cutoff: float) -> KRange | None:
    """The range of reciprocal lattice vectors that serves all structures.

    Args:
        structures: those of a batch.
        cutoff: of the vectors, 1/Å; 0 where no sum over them is asked for.

    Raises:
        UserError: naming a structure that is periodic in one or two directions.
    """
    if cutoff == 0.0:
        return None
    ranges = [range_of(structure, cutoff) for structure in structures]
    a, b, c = (max(limits) for limits in zip(*ranges, strict=True))
    return a, b, c


def range_of(structure: Structure, cutoff: float) -> KRange:
    """`reciprocal_range` of a structure, with its name in errors."""
    try:
        return reciprocal_range(structure.cell, structure.pbc, cutoff)
    except UserError as error:
        raise UserError(f"{structure.name or 'structure'}: {error}") from error


def make_graph(
    structures: Structure | Sequence[Structure],
    cutoff: float,
    *,
    prefix_cutoffs: Sequence[float] = (),
    pair_cutoffs: Sequence[float] = (),
    dtype: DTypeLike = np.float32,
    reverse: bool = False,
    bucket: Bucket | None = None,
    block: int = 0,
    reciprocal_cutoff: float = 0.0,
    heads: Sequence[str] = (),
) -> AtomicGraph:
    """Builds the graph of one or several structures.

    Args:
        structures: one or several.
        cutoff: Å.
        prefix_cutoffs: shorter cutoffs [Å] whose neighbours a model takes as a prefix of the row.
        pair_cutoffs: of these, those for whose pairs of neighbours there is to be no more room than
            they need (`AtomicGraph.pair_rooms`); used where no bucket is given.
        dtype: of positions and cell.
        reverse: whether to fill `AtomicGraph.reverse`.
        bucket: the padded size; the exact one where it is not given.
        block: see `AtomicGraph`; used where no bucket is given.
        reciprocal_cutoff: of sums over reciprocal lattice vectors, 1/Å; 0 where a model has none;
            used where no bucket is given.
        heads: see `collate`.

    Raises:
        UserError: for a structure without a meaningful neighbour list, that such sums cannot
            serve, or of an unknown head.
        ValueError: where the bucket is too small.
    """
    structures = [structures] if isinstance(structures, Structure) else list(structures)
    lists = [neighbor_list(s.positions, s.cell, s.pbc, cutoff) for s in structures]
    if bucket is None:
        k_range = largest_range(structures, reciprocal_cutoff)
        bucket = exact_bucket(lists, prefix_cutoffs, block, k_range, pair_cutoffs)
    return collate(structures, lists, bucket, dtype=dtype, reverse=reverse, heads=heads)


def collate(
    structures: Sequence[Structure],
    lists: Sequence[HostNeighbors],
    bucket: Bucket,
    *,
    dtype: DTypeLike = np.float32,
    reverse: bool = False,
    inputs: Sequence[str] | None = None,
    heads: Sequence[str] = (),
) -> AtomicGraph:
    """Concatenates structures and pads them to a bucket; leaves are numpy arrays.

    Positions are wrapped into the cell (and molecules moved to the origin) in float64 before they
    are cast, so that float32 keeps its precision far from the origin.

    Args:
        structures: at most `bucket.graphs`, with at most `bucket.atoms` atoms together.
        lists: their neighbour lists.
        bucket: the padded size.
        dtype: of positions and cell.
        reverse: whether to fill `AtomicGraph.reverse`.
        inputs: of `INPUTS`, those that the graph has; by default those that some structure has.
            They are 0 for padding and for a structure without them.
        heads: of the model; where there are some, `fidelity` has that of each structure, by its
            source.

    Raises:
        UserError: for a structure of an unknown head.
        ValueError: where the bucket is too small.
    """
    sizes = [s.num_atoms for s in structures]
    if len(structures) > bucket.graphs or sum(sizes) > bucket.atoms:
        raise ValueError(
            f"bucket: got {len(structures)} structures with {sum(sizes)} atoms for {bucket}; "
            "choose a larger bucket."
        )
    for cutoff, k in bucket.prefixes:
        needed = max((pairs.max_count(cutoff) for pairs in lists), default=0)
        if needed > k:
            raise ValueError(f"bucket: {needed} neighbours within {cutoff} Å exceed its {k} slots.")
    cutoffs = [cutoff for cutoff, _ in bucket.pair_rooms]
    rooms = zip(bucket.pair_rooms, pair_rooms(lists, bucket.atoms, cutoffs), strict=True)
    for (cutoff, places), (_, needed) in rooms:
        if needed > places:
            raise ValueError(f"bucket: {needed} pairs within {cutoff} Å exceed {places} places.")
    if inputs is None:
        inputs = [n for n in INPUTS if any(getattr(s, n) is not None for s in structures)]
    graph = _empty(bucket, np.dtype(dtype), reverse, inputs)
    if heads:
        numbers = [head_index(structure, heads) for structure in structures]
        padding = [0] * (bucket.graphs - len(numbers))
        graph = dataclasses.replace(graph, fidelity=np.array(numbers + padding, np.int32))
    start = 0
    for index, (structure, pairs) in enumerate(zip(structures, lists, strict=True)):
        _fill(graph, index, start, structure, pairs)
        start += structure.num_atoms
    return graph


def _empty(bucket: Bucket, dtype: np.dtype, reverse: bool, inputs: Sequence[str]) -> AtomicGraph:
    atoms, slots, graphs = bucket.atoms, bucket.max_neighbors, bucket.graphs
    own = np.arange(atoms, dtype=np.int32)
    flat = np.arange(atoms * slots, dtype=np.int32).reshape(atoms, slots)
    arrays: dict[str, Any] = {
        "positions": np.zeros((atoms, 3), dtype),
        "atomic_numbers": np.zeros(atoms, np.int32),
        "cell": np.zeros((graphs, 3, 3), dtype),
        "pbc": np.zeros((graphs, 3), bool),
        "neighbors": np.repeat(own[:, None], slots, axis=1),
        "shifts": np.zeros((atoms, slots, 3), np.int32),
        "edge_mask": np.zeros((atoms, slots), bool),
        "graph_index": np.full(atoms, graphs - 1, np.int32),
        "atom_mask": np.zeros(atoms, bool),
        "graph_mask": np.zeros(graphs, bool),
        "energy_mask": np.zeros(atoms, bool),
        "reverse": flat if reverse else None,
        "total_charge": np.zeros(graphs, dtype) if "total_charge" in inputs else None,
        "spins": np.zeros((atoms, 3), dtype) if "spins" in inputs else None,
    }
    return AtomicGraph(
        **arrays,
        prefixes=bucket.prefixes,
        pair_rooms=bucket.pair_rooms,
        k_range=bucket.k_range,
        block=bucket.block,
    )


def _fill(graph: Any, index: int, start: int, structure: Structure, pairs: HostNeighbors) -> None:
    """Writes one structure into the arrays of an empty graph, in place."""
    slots = graph.neighbors.shape[1]
    rows = slice(start, start + structure.num_atoms)
    positions, moves = wrap(structure.positions, structure.cell, structure.pbc)
    if not np.any(structure.pbc):
        positions = positions - positions.mean(axis=0)
    listed = neighbor_rows(pairs, slots, reverse=graph.reverse is not None)
    moved = moves[listed.neighbors] - moves[:, None, :]
    graph.positions[rows] = positions
    graph.atomic_numbers[rows] = structure.atomic_numbers
    graph.cell[index] = structure.cell
    graph.pbc[index] = structure.pbc
    graph.neighbors[rows] = listed.neighbors + start
    graph.shifts[rows] = np.where(listed.edge_mask[..., None], listed.shifts + moved, 0)
    graph.edge_mask[rows] = listed.edge_mask
    graph.graph_index[rows] = index
    graph.atom_mask[rows] = True
    graph.graph_mask[index] = True
    graph.energy_mask[rows] = True
    if graph.total_charge is not None and structure.total_charge is not None:
        graph.total_charge[index] = structure.total_charge
    if graph.spins is not None and structure.spins is not None:
        graph.spins[rows] = structure.spins
    if graph.reverse is not None:
        graph.reverse[rows] = listed.reverse + start * slots
