"""Graphs of a system as it changes, for a driver on the host: lists and shapes are kept."""

import dataclasses
from typing import Any

import numpy as np

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate, exact_bucket, largest_range
from mlip_jax.data.shapes import atom_ladder, row_ladder
from mlip_jax.data.structure import Structure, require_inputs
from mlip_jax.graph import AtomicGraph
from mlip_jax.neighbors.host import HostNeighbors, neighbor_list
from mlip_jax.neighbors.reciprocal import reciprocal_ladder
from mlip_jax.potential import Potential


class GraphSeries:
    """Graphs for a potential; a list with a skin is used while no atom has moved by half of it.

    Rows are padded to a ladder of lengths and never become shorter for the same atoms, so that
    changing numbers of neighbours rarely compile a new program.
    """

    def __init__(
        self, potential: Potential, dtype: Any, skin: float, block: int, *, changing: bool = False
    ):
        """Makes an empty series.

        Args:
            potential: says cutoff, elements and inputs.
            dtype: of positions.
            skin: Å.
            block: see `AtomicGraph`.
            changing: atoms come and go: their number is padded to a ladder, too, and no length
                becomes shorter, whatever the atoms.
        """
        self.potential = potential
        self._dtype, self._skin, self._block = dtype, skin, block
        self._changing = changing
        self._needs = models.requirements(potential.model)
        self._reference: tuple[Structure, HostNeighbors] | None = None
        self._bucket: Bucket | None = None

    def graph(self, structure: Structure) -> AtomicGraph:
        """The graph of a structure; leaves are numpy arrays.

        Raises:
            UserError: for an element that the potential does not know, no atoms, two atoms at one
                place, or a periodic cell without volume.
        """
        if structure.num_atoms == 0:
            raise UserError("atoms: got none; expected at least one atom.")
        self.potential.check_species(structure.atomic_numbers, "atoms")
        require_inputs(structure, self._needs.inputs)
        if self._reference is None or _is_stale(self._reference[0], structure, self._skin):
            pairs = neighbor_list(
                structure.positions,
                structure.cell,
                structure.pbc,
                self._needs.cutoff + self._skin,
            )
            same = self._reference is not None and _same_atoms(self._reference[0], structure)
            if not (same or self._changing):
                self._bucket = None
            self._reference = structure, pairs
        pairs = _within(self._reference[1], structure, self._needs.cutoff)
        self._bucket = self._fit(pairs, structure)
        return collate(
            [structure], [pairs], self._bucket, dtype=self._dtype, reverse=self._needs.reverse
        )

    def _fit(self, pairs: HostNeighbors, structure: Structure) -> Bucket:
        """The bucket so far, or one from the ladder where that is too small."""
        k_range = largest_range([structure], self._needs.reciprocal_cutoff)
        old = self._bucket
        if k_range is not None:
            steps = tuple(map(reciprocal_ladder, k_range))
            if old is not None and old.k_range is not None:
                steps = tuple(map(max, steps, old.k_range))
            k_range = steps[0], steps[1], steps[2]
        needs = self._needs
        exact = exact_bucket(
            [pairs], needs.prefix_cutoffs, self._block, k_range, needs.pair_cutoffs
        )
        atoms = atom_ladder(exact.atoms, self._block) if self._changing else exact.atoms
        rooms = [row_ladder(places) for _, places in exact.pair_rooms]
        lengths = [exact.max_neighbors, *(k for _, k in exact.prefixes)]
        row, *prefixes = map(row_ladder, lengths)
        if old is not None:
            row = max(row, old.max_neighbors)
            atoms = max(atoms, old.atoms) if self._changing else atoms
            prefixes = [max(k, o) for k, (_, o) in zip(prefixes, old.prefixes, strict=True)]
            rooms = [max(k, o) for k, (_, o) in zip(rooms, old.pair_rooms, strict=True)]
        cutoffs = [c for c, _ in exact.prefixes]
        return dataclasses.replace(
            exact,
            atoms=atoms,
            max_neighbors=row,
            prefixes=tuple(zip(cutoffs, prefixes, strict=True)),
            pair_rooms=tuple(zip(needs.pair_cutoffs, rooms, strict=True)),
        )


def _same_atoms(old: Structure, new: Structure) -> bool:
    return np.array_equal(old.atomic_numbers, new.atomic_numbers)


def _is_stale(old: Structure, new: Structure, skin: float) -> bool:
    if not (
        _same_atoms(old, new)
        and np.array_equal(old.cell, new.cell)
        and np.array_equal(old.pbc, new.pbc)
    ):
        return True
    # NaN positions compare false: they make the list stale, and the new one refuses them.
    return not np.max(np.sum((new.positions - old.positions) ** 2, axis=1)) < (0.5 * skin) ** 2


def _within(pairs: HostNeighbors, structure: Structure, cutoff: float) -> HostNeighbors:
    """Of the pairs of a list with a skin, those within the cutoff now, by distance."""
    i, j = pairs.centers, pairs.neighbors
    vectors = structure.positions[j] - structure.positions[i] + pairs.shifts @ structure.cell
    distances = np.linalg.norm(vectors, axis=1)
    kept = np.flatnonzero(distances < cutoff)
    kept = kept[np.lexsort((distances[kept], i[kept]))]
    return HostNeighbors(
        counts=np.bincount(i[kept], minlength=structure.num_atoms),
        neighbors=j[kept],
        shifts=pairs.shifts[kept],
        distances=distances[kept],
    )
