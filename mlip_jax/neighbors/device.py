"""Neighbour lists inside `jit`: linked cells with periodic images, for cells of any size and shape.

Atoms are sorted into bins of the fractional coordinates; an atom's neighbours are looked for in the
bins around its own, where a step across the border of a periodic direction is a step into the next
image. In a cell smaller than the cutoff there is one bin and the steps visit several images; in a
large one there are many bins and one step; the same program does both (Allen & Tildesley 2017,
section 5.3.2, without the minimum image).

A list holds pairs within `cutoff + skin` and stays valid until atoms have moved by half the skin.
From it, every step takes the rows within the cutoff, so that a model never computes skin. Sizes are
static; what does not fit raises a flag that stays up (`flags`), and `grow` makes room.
"""

import dataclasses
import enum
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from mlip_jax.graph import AtomicGraph, pytree, static_field
from mlip_jax.neighbors.host import complete_cell, neighbor_list

MARGIN = 1.1
"""Capacities are this much larger than what was needed when they were chosen."""

CANDIDATES = 2**19
"""Candidate pairs that are looked at at a time: bounds the memory of a search."""

PACKED_SHIFT = 512
"""Images further than this from the cell are out of range of the packed comparison of shifts."""


class Flag(enum.IntFlag):
    """What went wrong with a list; any bit makes its rows incomplete."""

    ROW = 1
    ACTIVE = 2
    PREFIX = 4
    BIN = 8
    CELL = 16


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Static sizes of a list.

    Attributes:
        row: slots of a row within cutoff + skin.
        active: slots of a row within the cutoff.
        prefixes: `((cutoff, k), ...)`, see `AtomicGraph`.
        bins: bins along each cell vector.
        search: bins to look into on either side.
        occupancy: atoms in a bin.
    """

    row: int
    active: int
    prefixes: tuple[tuple[float, int], ...]
    bins: tuple[int, int, int]
    search: tuple[int, int, int]
    occupancy: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The capacities in the order of `DeviceNeighbors.needed`."""
        return (self.row, self.active, self.occupancy, *(k for _, k in self.prefixes))


@pytree
class DeviceNeighbors:
    """Pairs within `cutoff + skin` as rows, built at the reference positions.

    Attributes:
        neighbors: index j; a padded slot holds its own row's index.
        shifts: integers S with `r_ij = r_j + S @ cell - r_i`.
        edge_mask: False in padded slots.
        reference_positions: Å, where the list was built.
        reference_cell: Å.
        frame: Å, vectors that stand for the directions that are not periodic.
        origin: of the bins, in fractional coordinates.
        needed: largest sizes met so far, in the order of `Capacity.sizes`.
        cell_too_small: whether some cell met so far was too small for the bins.
        capacity: static sizes.
        cutoff: Å.
        skin: Å.
        pbc: which directions are periodic.
    """

    neighbors: Int[Array, "atoms row"]
    shifts: Int[Array, "atoms row 3"]
    edge_mask: Bool[Array, "atoms row"]
    reference_positions: Float[Array, "atoms 3"]
    reference_cell: Float[Array, "3 3"]
    frame: Float[Array, "3 3"]
    origin: Float[Array, "3"]
    needed: Int[Array, " sizes"]
    cell_too_small: Bool[Array, ""]
    capacity: Capacity = static_field()  # pyright: ignore
    cutoff: float = static_field()  # pyright: ignore
    skin: float = static_field()  # pyright: ignore
    pbc: tuple[bool, bool, bool] = static_field()  # pyright: ignore


class _Bins(NamedTuple):
    """Atoms sorted into bins; a table entry of `atoms` is empty."""

    wrapped: Float[Array, "atoms 3"]
    images: Int[Array, "atoms 3"]
    places: Int[Array, "atoms 3"]
    table: Int[Array, "bins occupancy"]
    fullest: Int[Array, ""]
    lattice: Float[Array, "3 3"]
    too_small: Bool[Array, ""]


def allocate(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
    cutoff: float,
    skin: float = 0.0,
    *,
    prefix_cutoffs: tuple[float, ...] = (),
    dtype: DTypeLike = np.float32,
    margin: float = MARGIN,
) -> DeviceNeighbors:
    """Chooses capacities for a structure on the host and builds its list.

    Args:
        positions: Å.
        cell: Å, vectors in rows.
        pbc: which directions are periodic.
        cutoff: Å.
        skin: Å; the list is valid while no atom has moved by half of it.
        prefix_cutoffs: shorter cutoffs [Å] whose neighbours are wanted as prefixes of the rows.
        dtype: of the positions on the device.
        margin: capacities exceed what this structure needs by this factor.

    Raises:
        UserError: for a structure without a meaningful neighbour list.
    """
    pairs = neighbor_list(positions, cell, pbc, cutoff + 1.5 * skin)

    def slots(reach: float) -> int:
        """A shell of neighbours just outside will partly come in when atoms vibrate."""
        return max(_enlarged(pairs.max_count(reach), margin), pairs.max_count(reach + 0.5 * skin))

    frame, origin = _frame(positions, cell, pbc, cutoff + skin)
    bins, search, occupancy = _choose_bins(positions, frame, origin, pbc, cutoff + skin)
    capacity = Capacity(
        row=slots(cutoff + skin),
        active=slots(cutoff),
        prefixes=tuple((float(c), slots(c)) for c in prefix_cutoffs),
        bins=bins,
        search=search,
        occupancy=_enlarged(occupancy, margin),
    )
    blank = DeviceNeighbors(
        **_empty_rows(len(positions), capacity),
        reference_positions=jnp.asarray(positions, dtype),
        reference_cell=jnp.asarray(cell, dtype),
        frame=jnp.asarray(frame, dtype),
        origin=jnp.asarray(origin, dtype),
        capacity=capacity,
        cutoff=float(cutoff),
        skin=float(skin),
        pbc=(bool(pbc[0]), bool(pbc[1]), bool(pbc[2])),
    )
    return _update(blank, blank.reference_positions, blank.reference_cell)


def with_capacity(neighbors: DeviceNeighbors, capacity: Capacity) -> DeviceNeighbors:
    """Rebuilds a list at its own reference positions with other capacities and its flags down."""
    atoms = neighbors.reference_positions.shape[0]
    blank = dataclasses.replace(neighbors, **_empty_rows(atoms, capacity), capacity=capacity)
    return _update(blank, neighbors.reference_positions, neighbors.reference_cell)


def grown_capacity(neighbors: DeviceNeighbors, extra: int = 0) -> Capacity:
    """Capacities that hold all that a list has met so far, with a margin where it overflowed.

    Only sizes grow here; after `Flag.CELL` a list must be allocated anew.

    Args:
        neighbors: a list, overflowed or not.
        extra: slots to add to every size.
    """
    old = neighbors.capacity
    sizes = [
        (_enlarged(int(n), MARGIN) if n > size else size) + extra
        for n, size in zip(np.asarray(neighbors.needed), old.sizes, strict=True)
    ]
    row, active, occupancy, *lengths = sizes
    prefixes = tuple((c, k) for (c, _), k in zip(old.prefixes, lengths, strict=True))
    return Capacity(row, active, prefixes, old.bins, old.search, occupancy)


def update(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> DeviceNeighbors:
    """Builds the list anew at these positions [Å] and cell [Å]; flags that are up stay up."""
    bins = _sort_into_bins(neighbors, positions, cell)
    capacity, atoms = neighbors.capacity, positions.shape[0]
    steps = [range(-s, s + 1) for s in capacity.search]
    offsets = jnp.asarray(np.array(list(itertools.product(*steps)), dtype=np.int32))

    def row(atom):
        return _search_row(neighbors, bins, offsets, atom)

    at_once = max(1, CANDIDATES // (offsets.shape[0] * capacity.occupancy))
    if at_once >= atoms:
        rows = jax.vmap(row)(jnp.arange(atoms))
    else:
        rows = jax.lax.map(row, jnp.arange(atoms), batch_size=at_once)
    indices, shifts, mask, counts = rows
    largest = jnp.max(counts, axis=0)
    needed = jnp.concatenate([largest[:2], bins.fullest[None], largest[2:]])
    return dataclasses.replace(
        neighbors,
        neighbors=indices,
        shifts=shifts,
        edge_mask=mask,
        reference_positions=positions,
        reference_cell=cell,
        needed=jnp.maximum(neighbors.needed, needed),
        cell_too_small=neighbors.cell_too_small | bins.too_small,
    )


def refresh(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> DeviceNeighbors:
    """Builds the list anew where a pair within the cutoff might be missing from it."""
    return jax.lax.cond(
        is_stale(neighbors, positions, cell),
        lambda: update(neighbors, positions, cell),
        lambda: neighbors,
    )


def is_stale(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> Bool[Array, ""]:
    """Whether a pair within the cutoff may have been further than cutoff + skin at the reference.

    With F the affine map from the reference cell to the present one and u the largest displacement
    that remains, such a pair had `|r_ref| <= |F^-1| (cutoff + 2 u)`.
    """
    lattice = _lattice(neighbors, cell)
    backward = _inverse(lattice) @ _lattice(neighbors, neighbors.reference_cell)
    mapped = neighbors.reference_positions @ _inverse(backward)
    moved = jnp.sqrt(jnp.max(jnp.sum((positions - mapped) ** 2, axis=1)))
    stretch = 1.0 + jnp.sqrt(jnp.sum((backward - jnp.eye(3, dtype=backward.dtype)) ** 2))
    return stretch * (neighbors.cutoff + 2.0 * moved) > neighbors.cutoff + neighbors.skin


def wrap(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> tuple[Float[Array, "atoms 3"], Int[Array, "atoms 3"]]:
    """Moves atoms into the cell: wrapped positions and n with `positions = wrapped + n @ cell`."""
    lattice = _lattice(neighbors, cell)
    fractional = positions @ _inverse(lattice)
    images = jnp.where(jnp.asarray(neighbors.pbc)[None], jnp.floor(fractional), 0.0)
    return positions - images @ lattice, images.astype(jnp.int32)


def flags(neighbors: DeviceNeighbors) -> Int[Array, ""]:
    """Bits of `Flag`; 0 where the list is complete."""
    over = neighbors.needed > jnp.asarray(neighbors.capacity.sizes)
    result = jnp.where(over[0], Flag.ROW, 0) | jnp.where(over[1], Flag.ACTIVE, 0)
    result |= jnp.where(over[2], Flag.BIN, 0) | jnp.where(jnp.any(over[3:]), Flag.PREFIX, 0)
    result |= jnp.where(neighbors.cell_too_small, Flag.CELL, 0)
    return result.astype(jnp.int32)


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
    needed = neighbors.needed.at[1].max(counts[0]).at[3:].max(counts[1:])
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
        prefixes=neighbors.capacity.prefixes,
    )
    if template.reverse is not None:
        graph = dataclasses.replace(graph, reverse=_reverse(graph))
    return graph, dataclasses.replace(neighbors, needed=needed)


def _active_rows(neighbors, positions, cell):
    """Entries of the rows within the cutoff: by distance where prefixes need it, else as built."""
    positions, cell = jax.lax.stop_gradient((positions, cell))
    offsets = neighbors.shifts.astype(cell.dtype) @ cell
    vectors = positions[neighbors.neighbors] - positions[:, None, :] + offsets
    squares = jnp.sum(vectors**2, axis=-1)
    inside = neighbors.edge_mask & (squares < neighbors.cutoff**2)
    prefixes = [c for c, _ in neighbors.capacity.prefixes]
    limits = (neighbors.cutoff, *prefixes)
    counts = jnp.stack([jnp.max(jnp.sum(inside & (squares < c**2), axis=1)) for c in limits])
    width = min(neighbors.capacity.active, inside.shape[1])
    if prefixes:
        _, slots = jax.lax.top_k(_sort_key(squares, inside), width)
    else:
        slots = jax.vmap(lambda row: _first_true(row, width))(inside)
    mask = jnp.take_along_axis(inside, slots, axis=1)
    if not prefixes:
        mask &= jnp.arange(width)[None] < jnp.sum(inside, axis=1)[:, None]
    own = jnp.arange(inside.shape[0], dtype=jnp.int32)[:, None]
    indices = jnp.where(mask, jnp.take_along_axis(neighbors.neighbors, slots, axis=1), own)
    shifts = jnp.take_along_axis(neighbors.shifts, slots[..., None], axis=1)
    return indices, jnp.where(mask[..., None], shifts, 0), mask, counts.astype(jnp.int32)


def _search_row(neighbors, bins: _Bins, offsets, atom):
    """Neighbours of one atom, sorted, with the counts within cutoff + skin, cutoff, prefixes."""
    atoms, capacity = bins.wrapped.shape[0], neighbors.capacity
    number = jnp.asarray(capacity.bins)
    target = bins.places[atom][None] + offsets
    steps = jnp.where(jnp.asarray(neighbors.pbc)[None], target // number[None], 0)
    place = target - steps * number[None]
    exists = jnp.all((place >= 0) & (place < number[None]), axis=1)
    flat = jnp.where(exists, _flat_bin(place, capacity.bins), 0)
    candidates = jnp.where(exists[:, None], bins.table[flat], atoms)
    other = jnp.minimum(candidates, atoms - 1)
    lattice_vectors = steps.astype(bins.lattice.dtype) @ bins.lattice
    vectors = bins.wrapped[other] - bins.wrapped[atom][None, None] + lattice_vectors[:, None]
    squares = jnp.sum(vectors**2, axis=-1)
    itself = (other == atom) & jnp.all(steps == 0, axis=1)[:, None]
    reach = neighbors.cutoff + neighbors.skin
    inside = ((candidates < atoms) & ~itself & (squares < reach**2)).ravel()
    squares = squares.ravel()

    limits = (reach, neighbors.cutoff, *(c for c, _ in capacity.prefixes))
    counts = jnp.stack([jnp.sum(inside & (squares < c**2)) for c in limits]).astype(jnp.int32)
    chosen = _first_true(inside, capacity.row)
    mask = jnp.arange(capacity.row) < counts[0]
    _, order = jax.lax.top_k(_sort_key(squares[chosen], mask), capacity.row)
    chosen, mask = chosen[order], mask[order]
    index = jnp.where(mask, other.ravel()[chosen], atom).astype(jnp.int32)
    step = steps[chosen // capacity.occupancy]
    shifts = jnp.where(mask[:, None], step + bins.images[atom][None] - bins.images[index], 0)
    return index, shifts.astype(jnp.int32), mask, counts


def _sort_into_bins(neighbors, positions, cell) -> _Bins:
    capacity, atoms = neighbors.capacity, positions.shape[0]
    lattice = _lattice(neighbors, cell)
    inverse = _inverse(lattice)
    number = jnp.asarray(capacity.bins)
    periodic = jnp.asarray(neighbors.pbc)
    fractional = positions @ inverse - neighbors.origin[None]
    images = jnp.where(periodic[None], jnp.floor(fractional), 0.0)
    scaled = (fractional - images) * number.astype(lattice.dtype)[None]
    places = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, number[None] - 1)

    flat = _flat_bin(places, capacity.bins)
    order = jnp.argsort(flat)
    edges = jnp.searchsorted(flat[order], jnp.arange(int(np.prod(capacity.bins)) + 1))
    slots = edges[:-1, None] + jnp.arange(capacity.occupancy)[None]
    filled = slots < edges[1:, None]
    table = jnp.where(filled, order[jnp.minimum(slots, atoms - 1)], atoms)

    # A direction with a single bin and no periodicity is searched as a whole.
    heights = 1.0 / jnp.sqrt(jnp.sum(inverse**2, axis=0))
    covered = heights / number * jnp.asarray(capacity.search)
    matters = periodic | (number > 1)
    too_small = jnp.any(matters & (covered < neighbors.cutoff + neighbors.skin))
    return _Bins(
        wrapped=positions - images @ lattice,
        images=images.astype(jnp.int32),
        places=places,
        table=table,
        fullest=jnp.max(edges[1:] - edges[:-1]).astype(jnp.int32),
        lattice=lattice,
        too_small=too_small,
    )


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


def _lattice(neighbors, cell):
    return jnp.where(jnp.asarray(neighbors.pbc)[:, None], cell, neighbors.frame)


def _inverse(matrix):
    """Inverse of a 3 × 3 matrix by cross products: a few operations instead of a library call."""
    a, b, c = matrix
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return columns / jnp.dot(a, columns[:, 0])


def _flat_bin(index, bins):
    return (index[..., 0] * bins[1] + index[..., 1]) * bins[2] + index[..., 2]


def _first_true(mask, size: int):
    """Indices of the first `size` True entries; any index after the last of them."""
    found = jnp.searchsorted(jnp.cumsum(mask), jnp.arange(1, size + 1))
    return jnp.minimum(found, mask.shape[0] - 1)


def _sort_key(squares, mask):
    """Larger is nearer; float32, because sorting doubles is slow and ties do not matter."""
    return jnp.where(mask, -squares.astype(jnp.float32), -jnp.inf)


def _empty_rows(atoms: int, capacity: Capacity) -> dict[str, Array]:
    own = jnp.arange(atoms, dtype=jnp.int32)[:, None]
    return {
        "neighbors": jnp.broadcast_to(own, (atoms, capacity.row)),
        "shifts": jnp.zeros((atoms, capacity.row, 3), jnp.int32),
        "edge_mask": jnp.zeros((atoms, capacity.row), bool),
        "needed": jnp.zeros(len(capacity.sizes), jnp.int32),
        "cell_too_small": jnp.zeros((), bool),
    }


def _enlarged(size: int, margin: float) -> int:
    """At least `size * margin`, a multiple of four."""
    return max(4, 4 * int(np.ceil(size * margin / 4)))


def _frame(positions, cell, pbc, reach):
    """Vectors for the directions that are not periodic, as long as the atoms spread, and origin."""
    completed = complete_cell(cell, pbc)
    fractional = positions @ np.linalg.inv(completed)
    low = np.where(pbc, 0.0, fractional.min(axis=0))
    spread = np.where(pbc, 1.0, np.maximum(fractional.max(axis=0) - low, reach))
    return completed * spread[:, None], low / spread


def _choose_bins(positions, frame, origin, pbc, reach):
    """The division into bins with the fewest candidates for an atom."""
    inverse = np.linalg.inv(frame)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    fractional = positions @ inverse - origin
    fractional = np.where(pbc, fractional - np.floor(fractional), fractional)
    safe = reach * (1.0 + 1e-5)  # what rounding does to a height must not matter
    choices = []
    for finer in (0, 1, 2, 3):
        bins = np.maximum(1, np.floor(finer * heights / safe)).astype(int)
        if np.prod(bins) > 4 * len(positions) + 64:
            continue
        search = np.ceil(safe * bins / heights).astype(int)
        search = np.where(pbc, search, np.where(bins == 1, 0, search))
        index = np.clip((fractional * bins).astype(int), 0, bins - 1)
        occupancy = int(np.bincount(_flat_bin(index, bins)).max())
        cost = np.prod(2 * search + 1) * occupancy
        choices.append((cost, tuple(bins.tolist()), tuple(search.tolist()), occupancy))
    return min(choices)[1:]


_update = jax.jit(update)
