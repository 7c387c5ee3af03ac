"""Linked cells with periodic images: the search for neighbours inside `jit`.

Atoms are sorted into bins of the fractional coordinates; an atom's neighbours are looked for in the
bins around its own, where a step across the border of a periodic direction is a step into the next
image. In a cell smaller than the cutoff there is one bin and the steps visit several images; in a
large one there are many bins and one step; the same program does both (Allen & Tildesley 2017,
section 5.3.2, without the minimum image).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlip_jax.neighbors.capacity import Capacity
from mlip_jax.neighbors.host import complete_cell


class Bins(NamedTuple):
    """Atoms sorted into bins.

    Attributes:
        wrapped: Å, positions inside the periodic directions of the lattice.
        images: n with positions = wrapped + n @ lattice.
        places: bin of each atom.
        table: atoms of each bin; an entry of `atoms` is empty.
        fullest: most atoms in a bin, whether they fit or not.
        lattice: Å.
        periodic: which of its directions are periodic.
        too_small: whether a search does not cover its reach.
    """

    wrapped: Float[Array, "atoms 3"]
    images: Int[Array, "atoms 3"]
    places: Int[Array, "atoms 3"]
    table: Int[Array, "bins occupancy"]
    fullest: Int[Array, ""]
    lattice: Float[Array, "3 3"]
    periodic: Bool[Array, "3"]
    too_small: Bool[Array, ""]


def sort_into_bins(
    positions: Float[Array, "atoms 3"],
    lattice: Float[Array, "3 3"],
    origin: Float[Array, "3"],
    pbc: tuple[bool, bool, bool],
    capacity: Capacity,
    reach: float,
) -> Bins:
    """Sorts atoms into bins of the fractional coordinates.

    Args:
        positions: Å.
        lattice: Å, vectors along which bins are counted.
        origin: of the bins, in fractional coordinates.
        pbc: which directions are periodic.
        capacity: static sizes.
        reach: Å, the distance that a search must cover.
    """
    atoms = positions.shape[0]
    inverse = invert(lattice)
    number = jnp.asarray(capacity.bins)
    periodic = jnp.asarray(pbc)
    fractional = positions @ inverse - origin[None]
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
    too_small = jnp.any(matters & (covered < reach))
    return Bins(
        wrapped=positions - images @ lattice,
        images=images.astype(jnp.int32),
        places=places,
        table=table,
        fullest=jnp.max(edges[1:] - edges[:-1]).astype(jnp.int32),
        lattice=lattice,
        periodic=periodic,
        too_small=too_small,
    )


def search_row(
    bins: Bins,
    capacity: Capacity,
    limits: tuple[float, ...],
    offsets: Int[Array, "cells 3"],
    atom: Any,
) -> tuple[Array, Array, Array, Array]:
    """Neighbours of one atom within `limits[0]` [Å], by distance.

    Args:
        bins: of all atoms.
        capacity: static sizes.
        limits: distances [Å] within which neighbours are counted; the first is the largest.
        offsets: steps from a bin to those around it.
        atom: index.

    Returns:
        Indices, shifts and mask `[row]`, and a count for each limit.
    """
    atoms = bins.wrapped.shape[0]
    number = jnp.asarray(capacity.bins)
    target = bins.places[atom][None] + offsets
    steps = jnp.where(bins.periodic[None], target // number[None], 0)
    place = target - steps * number[None]
    exists = jnp.all((place >= 0) & (place < number[None]), axis=1)
    flat = jnp.where(exists, _flat_bin(place, capacity.bins), 0)
    candidates = jnp.where(exists[:, None], bins.table[flat], atoms)
    other = jnp.minimum(candidates, atoms - 1)
    lattice_vectors = steps.astype(bins.lattice.dtype) @ bins.lattice
    vectors = bins.wrapped[other] - bins.wrapped[atom][None, None] + lattice_vectors[:, None]
    squares = jnp.sum(vectors**2, axis=-1)
    itself = (other == atom) & jnp.all(steps == 0, axis=1)[:, None]
    inside = ((candidates < atoms) & ~itself & (squares < limits[0] ** 2)).ravel()
    squares = squares.ravel()
    counts = jnp.stack([jnp.sum(inside & (squares < c**2)) for c in limits]).astype(jnp.int32)
    chosen = first_true(inside, capacity.row)
    mask = jnp.arange(capacity.row) < counts[0]
    _, order = jax.lax.top_k(sort_key(squares[chosen], mask), capacity.row)
    chosen, mask = chosen[order], mask[order]
    index = jnp.where(mask, other.ravel()[chosen], atom).astype(jnp.int32)
    step = steps[chosen // capacity.occupancy]
    shifts = jnp.where(mask[:, None], step + bins.images[atom][None] - bins.images[index], 0)
    return index, shifts.astype(jnp.int32), mask, counts


def frame(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
    reach: float,
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Vectors along which bins are counted, and their origin in fractional coordinates.

    Where a direction is not periodic its vector is as long as the atoms spread; atoms that leave it
    later belong to the bins at its ends.
    """
    completed = complete_cell(cell, pbc)
    fractional = positions @ np.linalg.inv(completed)
    low = np.where(pbc, 0.0, fractional.min(axis=0))
    spread = np.where(pbc, 1.0, np.maximum(fractional.max(axis=0) - low, reach))
    return completed * spread[:, None], low / spread


def choose_bins(
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    origin: Float[np.ndarray, "3"],
    pbc: Bool[np.ndarray, "3"],
    reach: float,
) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """The division with the fewest candidates for an atom: bins, steps either way, occupancy."""
    inverse = np.linalg.inv(lattice)
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


def invert(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Inverse of a 3 × 3 matrix by cross products: a few operations instead of a library call."""
    a, b, c = matrix
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return columns / jnp.dot(a, columns[:, 0])


def first_true(mask: Bool[Array, " slots"], size: int) -> Int[Array, " size"]:
    """Indices of the first `size` True entries; any index after the last of them."""
    found = jnp.searchsorted(jnp.cumsum(mask), jnp.arange(1, size + 1))
    return jnp.minimum(found, mask.shape[0] - 1)


def sort_key(squares: Float[Array, "*rows"], mask: Bool[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Larger is nearer; float32, because sorting doubles is slow and ties do not matter."""
    return jnp.where(mask, -squares.astype(jnp.float32), -jnp.inf)


def _flat_bin(index, bins):
    return (index[..., 0] * bins[1] + index[..., 1]) * bins[2] + index[..., 2]
