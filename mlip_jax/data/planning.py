"""Which structures form which batch, and the few shapes that batches are padded to.

Everything here is a pure function of (seed, epoch, sizes): a run that resumes needs the number of
the epoch and of the batch, nothing else. Every shape costs one compilation, every padded slot some
arithmetic: `row_classes` trades one for the other.
"""

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from mlip_jax import pair_groups
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket
from mlip_jax.data.lists import Sizes
from mlip_jax.data.shapes import atom_ladder, row_ladder
from mlip_jax.neighbors.reciprocal import KRange

Shape = tuple[int, ...]
"""As `Sizes.extent`."""

_SIMULATED_EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How structures are batched.

    Attributes:
        batch_size: structures in a step, over all devices.
        devices: a batch is a stack of this many sub-batches of one shape (1: no stack).
        max_shapes: most shapes that are compiled for a set (but for a rare batch).
        shape_slots: slots of padding that a compilation is worth at least: where there are few
            passes through the data, `shapes.SLOTS_PER_COMPILATION` over their number.
        block: atoms that are processed at a time (see `AtomicGraph.block`).
        shuffle: whether every epoch has its own order.
        seed: of the order.
    """

    batch_size: int = 8
    devices: int = 1
    max_shapes: int = 6
    shape_slots: float = 0.0
    block: int = 0
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self):
        for name in ("batch_size", "devices", "max_shapes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)}; expected at least 1.")
        if self.batch_size % self.devices:
            raise UserError(
                f"batch_size: got {self.batch_size} for {self.devices} devices; expected a "
                "multiple of the number of devices."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class BatchPlan:
    """One batch before it is built.

    Attributes:
        members: indices of its structures, one array for each device.
        bucket: the shape of each sub-batch.
    """

    members: tuple[Int[np.ndarray, " _"], ...]
    bucket: Bucket


def row_classes(sizes: Sizes, config: BatchConfig) -> tuple[int, ...]:
    """Row lengths of the classes that structures are sorted into, at most `config.max_shapes`.

    The partition of the ladder with the fewest slots, by dynamic programming; a class more has to
    save 2 % of the slots that a class for every rung would need, and `config.shape_slots`, since it
    costs a compilation.
    """
    rungs, inverse = np.unique(_rungs(sizes.max_neighbors), return_inverse=True)
    atoms = np.concatenate([[0], np.cumsum(np.bincount(inverse, weights=sizes.num_atoms))])
    price = max(0.02 * float(np.diff(atoms) @ rungs), config.shape_slots)
    # best[k][n]: the cheapest way to put the n lowest rungs into k classes.
    best: list[dict[int, tuple[float, tuple[int, ...]]]] = [{0: (0.0, ())}]
    for _ in range(min(config.max_shapes, len(rungs))):
        best.append(
            {
                upper: min(
                    (cost + (atoms[upper] - atoms[low]) * rungs[upper - 1] + price, (*cut, upper))
                    for low, (cost, cut) in best[-1].items()
                    if low < upper
                )
                for upper in range(1, len(rungs) + 1)
                if min(best[-1]) < upper
            }
        )
    _, cuts = min(level[len(rungs)] for level in best[1:])
    return tuple(int(rungs[cut - 1]) for cut in cuts)


def deal(
    seed: int, epoch: int, sizes: Sizes, config: BatchConfig, classes: Sequence[int]
) -> list[tuple[int, tuple[Int[np.ndarray, " members"], ...]]]:
    """Deals the structures of an epoch to batches; each structure appears once.

    Within a class of rows, batches get like numbers of atoms: structures go, largest first, to the
    batch with the fewest atoms, in an order that noise of ±30 % makes different in every epoch.
    Structures that do not fill a batch of their class move up a class. At the end the order of the
    batches is shuffled. Devices get sub-batches with like numbers of atoms, too.

    Returns:
        For each batch its class and the indices of its structures, one array a device.

    Raises:
        UserError: batch larger than the set.
    """
    if config.batch_size > len(sizes):
        raise UserError(
            f"batch_size: got {config.batch_size} for a set of {len(sizes)} structures; expected "
            "at most that many."
        )
    generator = np.random.default_rng([seed, epoch if config.shuffle else 0])
    keys = sizes.num_atoms.astype(float)
    order = np.arange(len(sizes))
    if config.shuffle:
        keys *= generator.uniform(0.7, 1.3, len(sizes))
        order = generator.permutation(len(sizes))
    class_of = np.searchsorted(classes, sizes.max_neighbors)
    batches: list[tuple[int, np.ndarray]] = []
    pending = order[:0]
    for index in range(len(classes)):
        pending = np.concatenate([pending, order[class_of[order] == index]])
        last = index == len(classes) - 1
        taken = len(pending) if last else len(pending) // config.batch_size * config.batch_size
        members, pending = pending[:taken], pending[taken:]
        members = members[np.argsort(-keys[members], kind="stable")]
        count = -(-taken // config.batch_size)
        batches += [(index, b) for b in _balance(members, sizes, count, config.batch_size)]
    if config.shuffle:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return [(index, _split(batch, sizes, config)) for index, batch in batches]


def choose_shapes(sizes: Sizes, config: BatchConfig) -> dict[int, Shape]:
    """Chooses the shape of each class of rows (by its row length) from a few simulated epochs."""
    classes = row_classes(sizes, config)
    extents = len(sizes.extent([np.arange(len(sizes))]))
    shapes: dict[int, Shape] = {row: (1,) * extents for row in classes}
    for epoch in range(_SIMULATED_EPOCHS if config.shuffle else 1):
        for index, members in deal(config.seed, epoch, sizes, config, classes):
            demand = _demand(members, classes[index], sizes)
            shapes[classes[index]] = _union(shapes[classes[index]], demand)
    return {
        row: (atom_ladder(shape[0], config.block), row, *map(row_ladder, shape[2:]))
        for row, shape in shapes.items()
    }


def plan(
    seed: int,
    epoch: int,
    sizes: Sizes,
    config: BatchConfig,
    shapes: Mapping[int, Shape] | None = None,
) -> list[BatchPlan]:
    """The batches of an epoch, each padded to the shape of its class.

    Args:
        seed: of the order.
        epoch: from 0.
        sizes: of the structures.
        config: batch size and devices.
        shapes: from `choose_shapes` (computed when left out).
    """
    shapes = choose_shapes(sizes, config) if shapes is None else shapes
    classes = tuple(sorted(shapes))
    # One range for all batches: three numbers of their own would be many shapes to compile.
    k_range = sizes.k_range(np.arange(len(sizes)))
    plans = []
    for index, members in deal(seed, epoch, sizes, config, classes):
        shape, demand = shapes[classes[index]], _demand(members, classes[index], sizes)
        if any(need > have for need, have in zip(demand, shape, strict=True)):
            # More than any simulated epoch asked for: a shape of its own.
            need = _union(shape, demand)
            atoms = atom_ladder(math.ceil(1.1 * need[0]), config.block)
            shape = (atoms, need[1], *map(row_ladder, need[2:]))
        plans.append(BatchPlan(members, _bucket(shape, sizes, config, k_range)))
    return plans


@dataclasses.dataclass(frozen=True)
class Waste:
    """Share of padding in the batches of an epoch.

    Attributes:
        atoms: share of padded rows.
        slots: share of padded pair slots, which is what costs time.
        shapes: number of distinct shapes (compilations).
        largest: the shape with most slots.
    """

    atoms: float
    slots: float
    shapes: int
    largest: Bucket


def measure_waste(plans: Sequence[BatchPlan], sizes: Sizes) -> Waste:
    """Measures the padding of an epoch's plan."""
    rows = sum(p.bucket.atoms * len(p.members) for p in plans)
    slots = sum(p.bucket.atoms * p.bucket.max_neighbors * len(p.members) for p in plans)
    members = np.concatenate([m for p in plans for m in p.members])
    buckets = {p.bucket for p in plans}
    return Waste(
        atoms=1.0 - float(sizes.num_atoms[members].sum()) / rows,
        slots=1.0 - float(sizes.num_neighbors[members].sum()) / slots,
        shapes=len(buckets),
        largest=max(buckets, key=lambda b: b.atoms * b.max_neighbors),
    )


def _rungs(lengths: np.ndarray) -> np.ndarray:
    distinct, inverse = np.unique(lengths, return_inverse=True)
    return np.array([row_ladder(int(k)) for k in distinct])[inverse]


def _balance(members: np.ndarray, sizes: Sizes, count: int, capacity: int) -> list[np.ndarray]:
    """Deals members, in their order, each to the part with the fewest atoms that has room."""
    parts: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, part) for part in range(count)]
    for member, atoms in zip(members.tolist(), sizes.num_atoms[members].tolist(), strict=True):
        load, part = heapq.heappop(heap)
        parts[part].append(member)
        if len(parts[part]) < capacity:
            heapq.heappush(heap, (load + atoms, part))
    return [np.array(part, np.int64) for part in parts]


def _split(batch: np.ndarray, sizes: Sizes, config: BatchConfig) -> tuple[np.ndarray, ...]:
    if config.devices == 1:
        return (batch,)
    largest_first = batch[np.argsort(-sizes.num_atoms[batch], kind="stable")]
    return tuple(
        _balance(largest_first, sizes, config.devices, config.batch_size // config.devices)
    )


def _demand(members: tuple[np.ndarray, ...], row: int, sizes: Sizes) -> Shape:
    atoms, _, *others = sizes.extent(members)
    return (atoms, row, *others)


def _bucket(shape: Shape, sizes: Sizes, config: BatchConfig, k_range: KRange | None) -> Bucket:
    atoms, row, *lengths = shape
    pairs = lengths[len(sizes.prefix_cutoffs) :]
    # A prefix is never longer than its row.
    lengths = [min(k, row) for k in lengths[: len(sizes.prefix_cutoffs)]]
    rooms = [
        pair_groups.room_of_sums(most, total, atoms)
        for most, total in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return Bucket(
        graphs=config.batch_size // config.devices,
        atoms=atoms,
        max_neighbors=row,
        prefixes=tuple(zip(sizes.prefix_cutoffs, lengths, strict=True)),
        block=config.block,
        k_range=k_range,
        pair_rooms=tuple(zip(sizes.pair_cutoffs, rooms, strict=True)),
    )


def _union(first: Shape, second: Shape) -> Shape:
    return tuple(map(max, first, second))
