"""Which structures are computed together, and in which of few shapes.

A shape costs a compilation, a padded slot some arithmetic. Structures are sorted into classes of
like row lengths, and a shape that is compiled already is taken again where a new one would not save
what its compilation costs. A model with prefixes (three-body terms, bond graphs) has a slot for
each pair of a prefix, and these are most of its slots.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlip_jax.data.collate import Bucket, pair_rooms
from mlip_jax.data.lists import NeighborLists, Sizes
from mlip_jax.data.shapes import atom_ladder, row_ladder
from mlip_jax.inference.price import Price

MAX_GRAPHS = 64

PRICE = Price()
"""Where nothing is known of a model."""

ROOM_STEP = 64
"""Room for pairs is a multiple of this."""


def pack(
    lists: NeighborLists,
    limit: int,
    shapes: set[Bucket],
    block: int = 0,
    pair_cutoffs: Sequence[float] = (),
    price: Price = PRICE,
) -> Iterator[tuple[list[int], Bucket]]:
    """Deals structures to batches of like row lengths, in few shapes.

    Args:
        lists: of the structures.
        limit: atoms of a batch; a larger structure is a batch of its own.
        shapes: that are compiled already; those that are new are added. A new one holds these as
            well where that costs little, so that a driver whose structures change needs few.
        block: see `AtomicGraph`.
        pair_cutoffs: of pairs of neighbours for which there is to be room, see `AtomicGraph`.
        price: of shapes.

    Yields:
        The indices of a batch's structures, and its shape.
    """
    sizes, earlier = lists.sizes, frozenset(shapes)
    for every, lengths in classes(sizes, price):
        batches = _fill(every, sizes.num_atoms, limit)
        row, *slots = lengths
        prefixes = tuple(zip(sizes.prefix_cutoffs, slots, strict=True))
        k_range = sizes.k_range(every)
        for members in batches:
            atoms = int(sizes.num_atoms[members].sum())
            # One shape for all batches, but for a single one or a structure that is too large.
            alike = len(batches) > 1 and atoms <= limit
            graphs = 1 if len(members) == 1 and len(batches) == 1 else MAX_GRAPHS
            padded = atom_ladder(limit if alike else atoms, block)
            rooms = _rooms(lists, batches if alike else [members], padded, pair_cutoffs)
            needed = Bucket(graphs, padded, row, prefixes, block, k_range, rooms)
            yield members, _compiled(needed, shapes, earlier, len(batches) if alike else 1, price)


def classes(sizes: Sizes, price: Price = PRICE) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Structures that share a shape, and the lengths of its rows and prefixes.

    Structures stand in the order of what an atom of theirs costs, slots of pairs and of triplets,
    and are cut where that saves most (by dynamic programming): a class more has to save what a
    compilation costs.
    """
    lengths = np.column_stack(
        [
            _rungs(sizes.max_neighbors, row_ladder),
            *(_rungs(column, prefix_ladder) for column in sizes.prefixes.T),
        ]
    )
    lengths[:, 1:] = np.minimum(lengths[:, 1:], lengths[:, :1])
    kinds, kind_of = np.unique(lengths, axis=0, return_inverse=True)
    order = np.argsort([_slots(kind, price) for kind in kinds], kind="stable")
    kinds, place = kinds[order], np.argsort(order)[kind_of.ravel()]
    atoms = np.bincount(place, weights=sizes.num_atoms, minlength=len(kinds))
    cuts = _cut(kinds, atoms, price)
    return [
        (np.flatnonzero((place >= low) & (place < high)), tuple(map(int, kinds[low:high].max(0))))
        for low, high in itertools.pairwise(cuts)
    ]


def prefix_ladder(length: int) -> int:
    """Finer than that of rows, since triplets go with its square: multiples of four, then eight.

    >>> [prefix_ladder(k) for k in (0, 5, 31, 33)]
    [4, 8, 32, 40]
    """
    step = 4 if length <= 32 else 8
    return max(4, -(-length // step) * step)


def _cut(kinds: np.ndarray, atoms: np.ndarray, price: Price) -> list[int]:
    """Where to cut a sequence of kinds so that padding and compilations cost least together."""
    best: list[tuple[float, list[int]]] = [(0.0, [0])]
    for high in range(1, len(kinds) + 1):
        ways = []
        for low in range(high):
            slots = atoms[low:high].sum() * _slots(kinds[low:high].max(axis=0), price)
            ways.append((best[low][0] + slots + price.compilation, [*best[low][1], high]))
        best.append(min(ways))
    return best[-1][1]


def _rungs(lengths: np.ndarray, ladder: Callable[[int], int]) -> np.ndarray:
    return np.array([ladder(int(length)) for length in lengths], np.int64)


def _slots(lengths: np.ndarray, price: Price) -> float:
    """Slots of an atom: of pairs and, with prefixes, of triplets."""
    row, *prefixes = lengths.tolist()
    return float(row + price.triplet * sum(k * k for k in prefixes))


def _compiled(
    needed: Bucket, shapes: set[Bucket], earlier: frozenset[Bucket], batches: int, price: Price
) -> Bucket:
    """A shape that is there and holds what is needed, if it is cheaper than to compile another.

    Another one holds those of earlier calls, too, unless that costs more than to compile them anew.
    """
    serving = [shape for shape in shapes if _holds(shape, needed)]
    cost = functools.partial(_cost, price=price)
    best = min(serving, key=cost, default=None)
    if best is not None and batches * (cost(best) - cost(needed)) <= price.compilation:
        return best
    joined = functools.reduce(_join, (s for s in earlier if _is_alike(s, needed)), needed)
    if batches * (cost(joined) - cost(needed)) <= price.compilation:
        needed = joined
    shapes.add(needed)
    return needed


def _rooms(
    lists: NeighborLists,
    batches: Sequence[Sequence[int]],
    atoms: int,
    cutoffs: Sequence[float],
) -> tuple[tuple[float, int], ...]:
    """Room for pairs of neighbours in the batch that needs most."""
    if not cutoffs:
        return ()
    fitting = [members for members in batches if lists.sizes.num_atoms[members].sum() <= atoms]
    each = [pair_rooms([lists[i] for i in members], atoms, cutoffs) for members in fitting]
    return tuple(
        (cutoff, -(-most // ROOM_STEP) * ROOM_STEP)
        for cutoff, most in (max(rooms) for rooms in zip(*each, strict=True))
    )


def _is_alike(shape: Bucket, other: Bucket) -> bool:
    """Whether two shapes differ in lengths only."""
    cutoffs = [tuple(c for c, _ in s.prefixes + s.pair_rooms) for s in (shape, other)]
    same = (shape.block, shape.k_range) == (other.block, other.k_range)
    return same and cutoffs[0] == cutoffs[1]


def _join(shape: Bucket, other: Bucket) -> Bucket:
    """The smallest shape that holds two which are alike."""
    return dataclasses.replace(
        shape,
        graphs=max(shape.graphs, other.graphs),
        atoms=max(shape.atoms, other.atoms),
        max_neighbors=max(shape.max_neighbors, other.max_neighbors),
        prefixes=tuple(map(max, shape.prefixes, other.prefixes)),
        pair_rooms=tuple(map(max, shape.pair_rooms, other.pair_rooms)),
    )


def _holds(shape: Bucket, needed: Bucket) -> bool:
    """Whether all that a shape is made for fits into another one."""
    if not _is_alike(shape, needed):
        return False
    rooms = [
        (shape.graphs, needed.graphs),
        (shape.atoms, needed.atoms),
        (shape.max_neighbors, needed.max_neighbors),
        *((k, least) for (_, k), (_, least) in zip(shape.prefixes, needed.prefixes, strict=True)),
        *((k, n) for (_, k), (_, n) in zip(shape.pair_rooms, needed.pair_rooms, strict=True)),
    ]
    return all(room >= least for room, least in rooms)


def _cost(shape: Bucket, price: Price) -> float:
    lengths = np.array([shape.max_neighbors, *(k for _, k in shape.prefixes)])
    return shape.atoms * _slots(lengths, price)


def _fill(members: np.ndarray, num_atoms: np.ndarray, limit: int) -> list[list[int]]:
    """Batches of at most so many atoms: largest first, each into the first batch with room."""
    batches: list[list[int]] = []
    atoms: list[int] = []
    for i in sorted(members.tolist(), key=lambda i: (-num_atoms[i], i)):
        size = int(num_atoms[i])
        fits = (
            k
            for k, there in enumerate(atoms)
            if there + size <= limit and len(batches[k]) < MAX_GRAPHS
        )
        place = next(fits, len(batches))
        if place == len(batches):
            batches.append([])
            atoms.append(0)
        batches[place].append(i)
        atoms[place] += size
    return batches
