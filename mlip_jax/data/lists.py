"""The neighbour list of every structure of a set, and the sizes from which batches are planned."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from mlip_jax.config import UserError
from mlip_jax.data.collate import INPUTS
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.neighbors.host import HostNeighbors, neighbor_list

LABELS = tuple(field.name for field in dataclasses.fields(StructureLabels))


@dataclasses.dataclass(frozen=True, eq=False)
class Sizes:
    """How much room each structure of a set needs.

    Attributes:
        num_atoms: atoms of each structure.
        num_neighbors: pairs of each structure.
        max_neighbors: longest row of each structure.
        prefixes: longest row within each prefix cutoff.
        prefix_cutoffs: Å.
    """

    num_atoms: Int[np.ndarray, " structures"]
    num_neighbors: Int[np.ndarray, " structures"]
    max_neighbors: Int[np.ndarray, " structures"]
    prefixes: Int[np.ndarray, "structures prefix_cutoffs"]
    prefix_cutoffs: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.num_atoms)

    @property
    def extents(self) -> Int[np.ndarray, "structures extents"]:
        """Columns atoms, row length, and row length of each prefix."""
        return np.column_stack([self.num_atoms, self.max_neighbors, self.prefixes])


class NeighborLists:
    """Neighbour lists of a set, found once and kept, or found again on demand.

    Making it passes over the set once, which is all that planning needs.

    Attributes:
        cutoff: Å.
        sizes: of each structure.
        coverage: how many structures have each label (see `Structure.trainable_label`).
        inputs: further inputs (`collate.INPUTS`) that some structure has.
        min_distance: shortest distance of two atoms, Å; infinite where there are no pairs.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        cutoff: float,
        prefix_cutoffs: Sequence[float] = (),
        *,
        keep: bool | None = None,
    ):
        """Finds all lists.

        Args:
            structures: the set.
            cutoff: Å.
            prefix_cutoffs: Å.
            keep: whether lists stay in memory; by default they do where the structures do.

        Raises:
            UserError: naming the structure, for two atoms at one place or a cell without volume.
        """
        self.cutoff = cutoff
        self._structures = structures
        keep = not hasattr(structures, "num_atoms") if keep is None else keep
        self._kept: list[HostNeighbors] | None = [] if keep else None
        rows, counts, inputs = [], dict.fromkeys(LABELS, 0), set[str]()
        shortest = np.inf
        for structure in structures:
            pairs = _find(structure, cutoff)
            prefixes = [pairs.max_count(c) for c in prefix_cutoffs]
            rows.append([structure.num_atoms, len(pairs.neighbors), pairs.max_count(), *prefixes])
            for name in LABELS:
                counts[name] += structure.trainable_label(name) is not None
            inputs.update(name for name in INPUTS if getattr(structure, name) is not None)
            shortest = min(shortest, float(pairs.distances.min(initial=np.inf)))
            if self._kept is not None:
                self._kept.append(_compact(pairs))
        table = np.array(rows, np.int64).reshape(len(rows), 3 + len(prefix_cutoffs))
        self.sizes = Sizes(
            table[:, 0], table[:, 1], table[:, 2], table[:, 3:], tuple(map(float, prefix_cutoffs))
        )
        self.coverage: Mapping[str, int] = counts
        self.inputs = tuple(name for name in INPUTS if name in inputs)
        self.min_distance = shortest

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> HostNeighbors:
        """The list of one structure."""
        if self._kept is not None:
            return self._kept[index]
        return _find(self._structures[index], self.cutoff)


def _find(structure: Structure, cutoff: float) -> HostNeighbors:
    try:
        return neighbor_list(structure.positions, structure.cell, structure.pbc, cutoff)
    except UserError as error:
        raise UserError(f"{structure.name or 'structure'}: {error}") from error


def _compact(pairs: HostNeighbors) -> HostNeighbors:
    shifts = pairs.shifts
    if len(shifts) and np.abs(shifts).max() < 2**15:
        shifts = shifts.astype(np.int16)
    return HostNeighbors(pairs.counts, pairs.neighbors.astype(np.int32), shifts, pairs.distances)
