"""Neighbour lists on the device, usable inside `jit`, `scan` and `while_loop`.

A list holds pairs within `cutoff + skin` and stays valid until atoms have moved by half the skin.
From it, every step takes the rows within the cutoff (`active.to_graph`), so that a model never
computes skin. Sizes are static; what does not fit raises a flag that stays up (`flags`), and
`grown_capacity` makes room.
"""

import dataclasses
import enum
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from mlip_jax import pair_groups
from mlip_jax.graph import pytree, static_field
from mlip_jax.neighbors import linked_cells
from mlip_jax.neighbors.capacity import MARGIN, Capacity, enlarged
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.neighbors.linked_cells import invert

VIBRATION = 0.25
"""Neighbours [Å] outside a cutoff that may come in when atoms vibrate: rows have slots for them."""

CANDIDATES = 2**19
"""Candidate pairs that are looked at at a time: bounds the memory of a search."""


class Flag(enum.IntFlag):
    """What went wrong with a list; any bit makes its rows, or their pairs, incomplete.

    `PREFIX` is of prefixes, and of the room for pairs in them.
    """

    ROW = 1
    ACTIVE = 2
    PREFIX = 4
    BIN = 8
    CELL = 16


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


def allocate(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
    cutoff: float,
    skin: float = 0.0,
    *,
    prefix_cutoffs: tuple[float, ...] = (),
    pair_cutoffs: tuple[float, ...] = (),
    dtype: DTypeLike = np.float32,
    margin: float = MARGIN,
    active_margin: float = 1.0,
) -> DeviceNeighbors:
    """Chooses capacities for a structure on the host and builds its list.

    Every evaluation computes all slots within the cutoff, used or not; those of the list cost when
    it is built only. So the former are as many as there are neighbours within the cutoff and
    `VIBRATION` beyond: at 5 Å in a liquid some 15 % more, in a crystal whose shells lie far from
    the cutoff none. Where an atom gets more, a flag is raised, and the rows have to grow.

    Args:
        positions: Å.
        cell: Å, vectors in rows.
        pbc: which directions are periodic.
        cutoff: Å.
        skin: Å; the list is valid while no atom has moved by half of it.
        prefix_cutoffs: shorter cutoffs [Å] whose neighbours are wanted as prefixes of the rows.
        pair_cutoffs: of these, those for whose pairs of neighbours there is to be room, see
            `AtomicGraph`.
        dtype: of the positions on the device.
        margin: capacities of the list exceed what this structure needs by this factor.
        active_margin: the same of rows within the cutoff and their prefixes.

    Raises:
        UserError: for a structure without a meaningful neighbour list.
    """
    reach = cutoff + skin
    around = max(reach + 0.5 * skin, cutoff + VIBRATION)
    pairs = neighbor_list(positions, cell, pbc, around if cutoff > 0.0 else cutoff)

    def active_slots(limit: float) -> int:
        beyond = enlarged(pairs.max_count(limit + VIBRATION), 1.0, multiple=2)
        return max(enlarged(pairs.max_count(limit), active_margin, multiple=2), beyond)

    def pair_room(limit: float) -> int:
        places = pair_groups.room(pairs.near(limit + VIBRATION), len(positions))
        return enlarged(int(places), active_margin)

    frame, origin = linked_cells.frame(positions, cell, np.asarray(pbc), reach)
    bins, search, occupancy = linked_cells.choose_bins(
        positions, frame, origin, np.asarray(pbc), reach
    )
    # A shell of neighbours just outside will partly come in when atoms vibrate.
    room = max(enlarged(pairs.max_count(reach), margin), pairs.max_count(reach + 0.5 * skin))
    capacity = Capacity(
        row=room,
        active=active_slots(cutoff),
        prefixes=tuple((float(c), active_slots(c)) for c in prefix_cutoffs),
        bins=bins,
        search=search,
        occupancy=enlarged(occupancy, margin),
        pair_rooms=tuple((float(c), pair_room(c)) for c in pair_cutoffs),
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
    return neighbors.capacity.grown(np.asarray(neighbors.needed), extra)


def update(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> DeviceNeighbors:
    """Builds the list anew at these positions [Å] and cell [Å]; flags that are up stay up.

    A list carries no derivative with respect to positions or cell.
    """
    positions, cell = jax.lax.stop_gradient((positions, cell))
    capacity, atoms = neighbors.capacity, positions.shape[0]
    reach = neighbors.cutoff + neighbors.skin
    limits = (reach, neighbors.cutoff, *(c for c, _ in capacity.prefixes))
    bins = linked_cells.sort_into_bins(
        positions, _lattice(neighbors, cell), neighbors.origin, neighbors.pbc, capacity, reach
    )
    steps = [range(-s, s + 1) for s in capacity.search]
    offsets = jnp.asarray(np.array(list(itertools.product(*steps)), dtype=np.int32))

    def row(atom):
        return linked_cells.search_row(bins, capacity, limits, offsets, atom)

    at_once = max(1, CANDIDATES // (offsets.shape[0] * capacity.occupancy))
    if at_once >= atoms:
        rows = jax.vmap(row)(jnp.arange(atoms))
    else:
        rows = jax.lax.map(row, jnp.arange(atoms), batch_size=at_once)
    indices, shifts, mask, counts = rows
    largest = jnp.max(counts, axis=0)
    # What pairs need is known with the rows within the cutoff (`active`).
    pairs = jnp.zeros(len(capacity.pair_rooms), largest.dtype)
    needed = jnp.concatenate([largest[:2], bins.fullest[None], largest[2:], pairs])
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
    positions, cell = jax.lax.stop_gradient((positions, cell))
    lattice = _lattice(neighbors, cell)
    backward = invert(lattice) @ _lattice(neighbors, neighbors.reference_cell)
    mapped = neighbors.reference_positions @ invert(backward)
    moved = jnp.sqrt(jnp.max(jnp.sum((positions - mapped) ** 2, axis=1)))
    stretch = 1.0 + jnp.sqrt(jnp.sum((backward - jnp.eye(3, dtype=backward.dtype)) ** 2))
    return stretch * (neighbors.cutoff + 2.0 * moved) > neighbors.cutoff + neighbors.skin


def wrap(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> tuple[Float[Array, "atoms 3"], Int[Array, "atoms 3"]]:
    """Moves atoms into the cell: wrapped positions and n with `positions = wrapped + n @ cell`."""
    lattice = _lattice(neighbors, cell)
    fractional = positions @ invert(lattice)
    images = jnp.where(jnp.asarray(neighbors.pbc)[None], jnp.floor(fractional), 0.0)
    return positions - images @ lattice, images.astype(jnp.int32)


def follow(
    neighbors: DeviceNeighbors, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> Float[Array, "atoms 3"]:
    """Positions as the images nearest to where the list was built.

    For callers that wrap atoms into the cell while a list is in use.
    """
    inverse = invert(_lattice(neighbors, cell))
    reference = neighbors.reference_positions @ invert(
        _lattice(neighbors, neighbors.reference_cell)
    )
    jumps = jnp.round(positions @ inverse - reference)
    jumps = jnp.where(jnp.asarray(neighbors.pbc)[None], jumps, 0.0)
    return positions - jax.lax.stop_gradient(jumps) @ cell


def flags(neighbors: DeviceNeighbors) -> Int[Array, ""]:
    """Bits of `Flag`; 0 where the list is complete."""
    over = neighbors.needed > jnp.asarray(neighbors.capacity.sizes)
    result = jnp.where(over[0], Flag.ROW, 0) | jnp.where(over[1], Flag.ACTIVE, 0)
    result |= jnp.where(over[2], Flag.BIN, 0) | jnp.where(jnp.any(over[3:]), Flag.PREFIX, 0)
    result |= jnp.where(neighbors.cell_too_small, Flag.CELL, 0)
    return result.astype(jnp.int32)


def _lattice(neighbors, cell):
    return jnp.where(jnp.asarray(neighbors.pbc)[:, None], cell, neighbors.frame)


def _empty_rows(atoms: int, capacity: Capacity) -> dict[str, Array]:
    own = jnp.arange(atoms, dtype=jnp.int32)[:, None]
    return {
        "neighbors": jnp.broadcast_to(own, (atoms, capacity.row)),
        "shifts": jnp.zeros((atoms, capacity.row, 3), jnp.int32),
        "edge_mask": jnp.zeros((atoms, capacity.row), bool),
        "needed": jnp.zeros(len(capacity.sizes), jnp.int32),
        "cell_too_small": jnp.zeros((), bool),
    }


_update = jax.jit(update)
