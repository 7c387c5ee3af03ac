"""Neighbour lists on the host, in float64, for any cell: vesin, sorted into rows."""

import dataclasses
from typing import NamedTuple

import numpy as np
import vesin
from jaxtyping import Bool, Float, Int

from mlip_jax.config import UserError

COINCIDENT = 1e-3
"""Two atoms closer than this [Å] are one atom entered twice."""

SINGULAR = 1e-6
"""A periodic direction whose height over its unit-scaled neighbours is below this spans no cell."""


@dataclasses.dataclass(frozen=True, eq=False)
class HostNeighbors:
    """All pairs within a cutoff, sorted by central atom, then by distance.

    Attributes:
        counts: neighbours of each atom.
        neighbors: index j of each pair.
        shifts: integers S with `r_ij = r_j + S @ cell - r_i`.
        distances: Å.
    """

    counts: Int[np.ndarray, " atoms"]
    neighbors: Int[np.ndarray, " pairs"]
    shifts: Int[np.ndarray, "pairs 3"]
    distances: Float[np.ndarray, " pairs"]

    @property
    def centers(self) -> Int[np.ndarray, " pairs"]:
        """Index i of each pair."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def slots(self) -> Int[np.ndarray, " pairs"]:
        """Position of each pair in its atom's row."""
        starts = np.cumsum(self.counts) - self.counts
        return np.arange(len(self.neighbors)) - np.repeat(starts, self.counts)

    def near(self, cutoff: float = np.inf) -> Int[np.ndarray, " atoms"]:
        """Neighbours of each atom within `cutoff` [Å]."""
        inside = self.distances < cutoff
        return np.bincount(self.centers[inside], minlength=len(self.counts))

    def max_count(self, cutoff: float = np.inf) -> int:
        """Most neighbours that any atom has within `cutoff` [Å]."""
        return int(self.near(cutoff).max(initial=0))


class Rows(NamedTuple):
    """The neighbour matrix of one structure; padded slots hold the row's own index, masked."""

    neighbors: Int[np.ndarray, "atoms max_neighbors"]
    shifts: Int[np.ndarray, "atoms max_neighbors 3"]
    edge_mask: Bool[np.ndarray, "atoms max_neighbors"]
    reverse: Int[np.ndarray, "atoms max_neighbors"] | None


def neighbor_list(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
    cutoff: float,
) -> HostNeighbors:
    """Finds all pairs closer than `cutoff`, every periodic image and self images included.

    Args:
        positions: Å; atoms may lie outside the cell.
        cell: Å, vectors in rows, of either handedness; rows of directions that are not periodic
            may be zero.
        pbc: which directions are periodic.
        cutoff: Å.

    Raises:
        UserError: for positions that are not finite, a cell that spans no volume in its periodic
            directions, a cutoff ≤ 0, or two atoms at one place.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    pbc = np.asarray(pbc, dtype=bool)
    if not cutoff > 0.0:
        raise UserError(f"cutoff: got {cutoff} Å; expected a positive distance.")
    if not np.all(np.isfinite(positions)):
        atom = int(np.argmax(~np.all(np.isfinite(positions), axis=1)))
        raise UserError(f"positions: atom {atom} is at {positions[atom]}; expected finite numbers.")
    counts = np.zeros(len(positions), dtype=np.int64)
    if len(positions) == 0:
        return HostNeighbors(counts, *_no_pairs())
    calculator = vesin.NeighborList(cutoff=float(cutoff), full_list=True)
    i, j, shifts, distances = calculator.compute(
        points=positions, box=complete_cell(cell, pbc), periodic=pbc, quantities="ijSd"
    )
    i, j = i.astype(np.int64), j.astype(np.int64)
    order = np.lexsort((*shifts.T[::-1], j, distances, i))
    pairs = HostNeighbors(
        counts=np.bincount(i, minlength=len(positions)),
        neighbors=j[order],
        shifts=shifts[order].astype(np.int64),
        distances=distances[order],
    )
    _refuse_coincident(pairs)
    return pairs


def complete_cell(
    cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """Replaces the vectors of directions that are not periodic by unit normals to the others.

    Raises:
        UserError: where the periodic directions do not span a cell.
    """
    cell, pbc = np.asarray(cell, dtype=np.float64), np.asarray(pbc, dtype=bool)
    periodic = cell[pbc]
    lengths = np.linalg.norm(periodic, axis=1)
    if not np.all(np.isfinite(cell)) or (
        len(periodic)
        and (
            np.any(lengths < SINGULAR)
            or np.linalg.svd(periodic / lengths[:, None], compute_uv=False)[-1] < SINGULAR
        )
    ):
        raise UserError(
            f"cell: got {cell.tolist()} Å with periodic directions {pbc.tolist()}; expected "
            "linearly independent vectors of non-zero length in the periodic directions. "
            "Set the cell, or declare the directions that are not periodic."
        )
    completed = cell.copy()
    basis = [v / np.linalg.norm(v) for v in periodic]
    normals = np.linalg.svd(np.array(basis).reshape(-1, 3))[2][len(basis) :]
    completed[~pbc] = normals
    return completed


def wrap(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
) -> tuple[Float[np.ndarray, "atoms 3"], Int[np.ndarray, "atoms 3"]]:
    """Moves atoms into the cell along its periodic directions.

    Returns:
        Wrapped positions [Å] and the integers n with `positions = wrapped + n @ cell`.
    """
    pbc = np.asarray(pbc, dtype=bool)
    fractional = np.linalg.solve(complete_cell(cell, pbc).T, positions.T).T
    moves = np.where(pbc, np.floor(fractional), 0.0)
    return positions - moves @ np.where(pbc[:, None], cell, 0.0), moves.astype(np.int64)


def neighbor_rows(pairs: HostNeighbors, max_neighbors: int, *, reverse: bool = False) -> Rows:
    """Lays pairs out as rows of `max_neighbors` slots.

    Args:
        pairs: of one structure.
        max_neighbors: slots of a row.
        reverse: whether to find the flat slot of every opposite edge.

    Raises:
        ValueError: where an atom has more neighbours than slots.
    """
    needed = int(pairs.counts.max(initial=0))
    if needed > max_neighbors:
        raise ValueError(
            f"max_neighbors: got {max_neighbors} slots, but an atom has {needed} neighbours; "
            "choose a larger bucket."
        )
    atoms = len(pairs.counts)
    i, slots = pairs.centers, pairs.slots
    neighbors = np.repeat(np.arange(atoms, dtype=np.int32)[:, None], max_neighbors, axis=1)
    neighbors[i, slots] = pairs.neighbors
    shifts = np.zeros((atoms, max_neighbors, 3), dtype=np.int32)
    shifts[i, slots] = pairs.shifts
    edge_mask = np.zeros((atoms, max_neighbors), dtype=bool)
    edge_mask[i, slots] = True
    opposite = None
    if reverse:
        flat = i * max_neighbors + slots
        opposite = np.arange(atoms * max_neighbors, dtype=np.int32).reshape(atoms, max_neighbors)
        opposite[i, slots] = flat[_reverse_pairs(pairs)]
    return Rows(neighbors, shifts, edge_mask, opposite)


def _reverse_pairs(pairs: HostNeighbors) -> Int[np.ndarray, " pairs"]:
    i, j, shifts = pairs.centers, pairs.neighbors, pairs.shifts
    forward = np.lexsort((*shifts.T, j, i))
    backward = np.lexsort((*(-shifts).T, i, j))
    reverse = np.empty(len(i), dtype=np.int64)
    reverse[backward] = forward
    if not (np.array_equal(j[reverse], i) and np.array_equal(shifts[reverse], -shifts)):
        raise ValueError("neighbour list: some pair lacks its opposite; the list is not symmetric.")
    return reverse


def _refuse_coincident(pairs: HostNeighbors) -> None:
    if len(pairs.distances) and pairs.distances.min() < COINCIDENT:
        worst = int(np.argmin(pairs.distances))
        i, j = pairs.centers[worst], pairs.neighbors[worst]
        raise UserError(
            f"positions: atoms {i} and {j} (image {pairs.shifts[worst].tolist()}) are "
            f"{pairs.distances[worst]:.1e} Å apart, which is one place; expected distinct atoms. "
            "Remove the duplicate or correct the cell."
        )


def _no_pairs():
    return np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros(0)
