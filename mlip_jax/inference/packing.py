"""Which structures are computed together, and in which of few shapes.

A shape costs a compilation, a padded slot some arithmetic. Structures are sorted into classes of
like row lengths, as `data.planning` does for training, and a shape that is compiled already is
taken again where a new one would not save what its compilation costs.
"""

from collections.abc import Iterator

import numpy as np

from mlip_jax.data.collate import Bucket
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.planning import BatchConfig, row_classes
from mlip_jax.data.shapes import SLOTS_PER_COMPILATION, atom_ladder, row_ladder

MAX_GRAPHS = 64


def pack(
    lists: NeighborLists, limit: int, shapes: set[Bucket]
) -> Iterator[tuple[list[int], Bucket]]:
    """Deals structures to batches of like row lengths, in few shapes.

    Args:
        lists: of the structures.
        limit: atoms of a batch; a larger structure is a batch of its own.
        shapes: that are compiled already; those that are new are added.

    Yields:
        The indices of a batch's structures, and its shape.
    """
    sizes = lists.sizes
    classes = row_classes(sizes, BatchConfig(shape_slots=SLOTS_PER_COMPILATION))
    class_of = np.searchsorted(classes, sizes.max_neighbors)
    for index, row in enumerate(classes):
        every = np.flatnonzero(class_of == index)
        batches = _fill(every, sizes.num_atoms, limit)
        slots = (min(row_ladder(int(k)), row) for k in sizes.prefixes[every].max(axis=0))
        prefixes = tuple(zip(sizes.prefix_cutoffs, slots, strict=True))
        k_range = sizes.k_range(every)
        for members in batches:
            atoms = int(sizes.num_atoms[members].sum())
            # One shape for all batches, but for a single one or a structure that is too large.
            alike = len(batches) > 1 and atoms <= limit
            graphs = 1 if len(members) == 1 and len(batches) == 1 else MAX_GRAPHS
            needed = Bucket(
                graphs, atom_ladder(limit if alike else atoms), row, prefixes, k_range=k_range
            )
            yield members, _compiled(needed, shapes, len(batches) if alike else 1)


def _compiled(needed: Bucket, shapes: set[Bucket], batches: int) -> Bucket:
    """A shape that is there and holds what is needed, if it is cheaper than to compile another."""
    serving = [shape for shape in shapes if _holds(shape, needed)]
    best = min(serving, key=_cost, default=None)
    if best is not None and batches * (_cost(best) - _cost(needed)) <= SLOTS_PER_COMPILATION:
        return best
    shapes.add(needed)
    return needed


def _holds(shape: Bucket, needed: Bucket) -> bool:
    """Whether all that a shape is made for fits into another one."""
    if (shape.block, shape.k_range) != (needed.block, needed.k_range):
        return False
    if tuple(c for c, _ in shape.prefixes) != tuple(c for c, _ in needed.prefixes):
        return False
    rooms = [
        (shape.graphs, needed.graphs),
        (shape.atoms, needed.atoms),
        (shape.max_neighbors, needed.max_neighbors),
        *((k, least) for (_, k), (_, least) in zip(shape.prefixes, needed.prefixes, strict=True)),
    ]
    return all(room >= least for room, least in rooms)


def _cost(shape: Bucket) -> int:
    """Slots of pairs and, with prefixes, of triplets."""
    return shape.atoms * (shape.max_neighbors + sum(k * k for _, k in shape.prefixes))


def _fill(members: np.ndarray, num_atoms: np.ndarray, limit: int) -> list[list[int]]:
    """Batches of at most so many atoms, the smallest structures first."""
    batches: list[list[int]] = []
    atoms = 0
    for i in sorted(members.tolist(), key=lambda i: (num_atoms[i], i)):
        atoms += int(num_atoms[i])
        if not batches or atoms > limit or len(batches[-1]) == MAX_GRAPHS:
            batches.append([])
            atoms = int(num_atoms[i])
        batches[-1].append(i)
    return batches
