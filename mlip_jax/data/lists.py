"""The neighbour list of every structure of a set, and the sizes from which batches are planned."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from mlip_jax.config import UserError
from mlip_jax.data.collate import INPUTS, ROUNDING, range_of
from mlip_jax.data.structure import Structure, StructureLabels, head_index, require_inputs
from mlip_jax.neighbors.host import HostNeighbors, neighbor_list
from mlip_jax.neighbors.reciprocal import KRange, reciprocal_ladder

LABELS = tuple(field.name for field in dataclasses.fields(StructureLabels))


@runtime_checkable
class Requirements(Protocol):
    """What a model asks of its graphs (`models.requirements`)."""

    @property
    def cutoff(self) -> float:
        """Å."""
        ...

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Å."""
        ...

    @property
    def pair_cutoffs(self) -> tuple[float, ...]:
        """Of `prefix_cutoffs`, those with lists of pairs of neighbours (`AtomicGraph.pair_rooms`).

        Å.
        """
        ...

    @property
    def reverse(self) -> bool:
        """Whether `AtomicGraph.reverse` is filled."""
        ...

    @property
    def reciprocal_cutoff(self) -> float:
        """1/Å; 0 where there are no sums over reciprocal lattice vectors."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Further inputs of structures that it reads."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Sources whose structures it tells apart; none where it treats all alike."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Sizes:
    """How much room each structure of a set needs.

    Attributes:
        num_atoms: atoms of each structure.
        num_neighbors: pairs of each structure.
        max_neighbors: longest row of each structure.
        prefixes: longest row within each prefix cutoff.
        prefix_cutoffs: Å.
        k_ranges: range of reciprocal lattice vectors of each structure; `None` where none is asked
            for.
        pairs: within each pair cutoff, most ordered pairs of neighbours that an atom has, and
            those of all atoms; `None` where no lists of them are asked for.
        pair_cutoffs: Å.
    """

    num_atoms: Int[np.ndarray, " structures"]
    num_neighbors: Int[np.ndarray, " structures"]
    max_neighbors: Int[np.ndarray, " structures"]
    prefixes: Int[np.ndarray, "structures prefix_cutoffs"]
    prefix_cutoffs: tuple[float, ...] = ()
    k_ranges: Int[np.ndarray, "structures 3"] | None = None
    pairs: Int[np.ndarray, "structures pair_cutoffs 2"] | None = None
    pair_cutoffs: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.num_atoms)

    def k_range(self, members: Sequence[int] | Int[np.ndarray, " _"]) -> KRange | None:
        """The range of reciprocal lattice vectors of a batch, on a ladder."""
        if self.k_ranges is None:
            return None
        a, b, c = (reciprocal_ladder(int(n)) for n in self.k_ranges[members].max(axis=0))
        return a, b, c

    def extent(self, parts: Sequence[Int[np.ndarray, " _"]]) -> tuple[int, ...]:
        """What batches of these structures need at most.

        Returns:
            Atoms, row length, row length of each prefix, then for each pair cutoff the most pairs
            of an atom and those of a batch.
        """
        members = np.concatenate(parts)
        found = [
            max(int(self.num_atoms[part].sum()) for part in parts),
            int(self.max_neighbors[members].max()),
            *self.prefixes[members].max(axis=0).tolist(),
        ]
        for index in range(len(self.pair_cutoffs)):
            assert self.pairs is not None
            found.append(int(self.pairs[members, index, 0].max()))
            found.append(max(int(self.pairs[part, index, 1].sum()) for part in parts))
        return tuple(found)


class NeighborLists:
    """Neighbour lists of a set, found once and kept, or found again on demand.

    Making it passes over the set once, which is all that planning needs.

    Attributes:
        cutoff: Å.
        reciprocal_cutoff: 1/Å, see `models.Requirements`.
        sizes: of each structure.
        coverage: how many structures have each label (see `Structure.trainable_label`).
        inputs: further inputs (`collate.INPUTS`) that some structure has.
        heads: see `models.Requirements`.
        min_distance: shortest distance of two atoms, Å; infinite where there are no pairs.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        cutoff: float,
        prefix_cutoffs: Sequence[float] = (),
        *,
        keep: bool | None = None,
        reciprocal_cutoff: float = 0.0,
        inputs: Sequence[str] | None = None,
        heads: Sequence[str] = (),
        pair_cutoffs: Sequence[float] = (),
    ):
        """Finds all lists.

        Args:
            structures: the set.
            cutoff: Å.
            prefix_cutoffs: Å.
            keep: whether lists stay in memory; by default they do where the structures do.
            reciprocal_cutoff: of a model's sums over reciprocal lattice vectors, 1/Å; 0 where it
                has none.
            inputs: further inputs that the model reads; a charged structure is refused where
                `total_charge` is not among them. `None` refuses none.
            heads: of the model; a structure of another source is refused where there are some.
            pair_cutoffs: Å, see `models.Requirements`.

        Raises:
            UserError: naming the structure, for two atoms at one place, a cell without volume, or
                what the model cannot serve.
        """
        self.cutoff = cutoff
        self._structures = structures
        keep = not hasattr(structures, "num_atoms") if keep is None else keep
        self._kept: list[HostNeighbors] | None = [] if keep else None
        rows, counts, found = [], dict.fromkeys(LABELS, 0), set[str]()
        ranges, pairs_within = [], []
        shortest = np.inf
        for structure in structures:
            if inputs is not None:
                require_inputs(structure, inputs)
            if heads:
                head_index(structure, heads)
            if reciprocal_cutoff:
                ranges.append(range_of(structure, reciprocal_cutoff))
            pairs = _find(structure, cutoff)
            rows.append(_row(structure, pairs, prefix_cutoffs))
            pairs_within.append([_pairs_within(pairs, cutoff) for cutoff in pair_cutoffs])
            for name in LABELS:
                counts[name] += structure.trainable_label(name) is not None
            found.update(name for name in INPUTS if getattr(structure, name) is not None)
            shortest = min(shortest, float(pairs.distances.min(initial=np.inf)))
            if self._kept is not None:
                self._kept.append(_compact(pairs))
        table = np.array(rows, np.int64).reshape(len(rows), 3 + len(prefix_cutoffs))
        k_ranges = np.array(ranges, np.int64).reshape(-1, 3) if reciprocal_cutoff else None
        atoms, neighbors, longest = table[:, :3].T
        self.sizes = Sizes(
            atoms,
            neighbors,
            longest,
            table[:, 3:],
            tuple(map(float, prefix_cutoffs)),
            k_ranges,
            np.array(pairs_within, np.int64).reshape(len(rows), -1, 2) if pair_cutoffs else None,
            tuple(map(float, pair_cutoffs)),
        )
        self.reciprocal_cutoff = float(reciprocal_cutoff)
        self.coverage: Mapping[str, int] = counts
        self.inputs = tuple(name for name in INPUTS if name in found)
        self.heads = tuple(heads)
        self.min_distance = shortest

    @classmethod
    def of_model(
        cls,
        structures: Sequence[Structure],
        requirements: Requirements,
        *,
        keep: bool | None = None,
    ) -> "NeighborLists":
        """The lists that a model needs; what it cannot serve is refused.

        Args:
            structures: the set.
            requirements: of the model (`models.requirements`).
            keep: see the constructor.
        """
        return cls(
            structures,
            requirements.cutoff,
            requirements.prefix_cutoffs,
            keep=keep,
            reciprocal_cutoff=requirements.reciprocal_cutoff,
            inputs=requirements.inputs,
            heads=requirements.heads,
            pair_cutoffs=requirements.pair_cutoffs,
        )

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


def _row(structure: Structure, pairs: HostNeighbors, prefix_cutoffs: Sequence[float]) -> list[int]:
    prefixes = [pairs.max_count(cutoff) for cutoff in prefix_cutoffs]
    return [structure.num_atoms, len(pairs.neighbors), pairs.max_count(), *prefixes]


def _pairs_within(pairs: HostNeighbors, cutoff: float) -> tuple[int, int]:
    """Ordered pairs of neighbours within a cutoff: most that an atom has, and of all atoms."""
    counts = pairs.near(cutoff + ROUNDING)
    each = counts * (counts - 1)
    return int(each.max(initial=0)), int(each.sum())


def _compact(pairs: HostNeighbors) -> HostNeighbors:
    shifts = pairs.shifts
    if len(shifts) and np.abs(shifts).max() < 2**15:
        shifts = shifts.astype(np.int16)
    return HostNeighbors(pairs.counts, pairs.neighbors.astype(np.int32), shifts, pairs.distances)
