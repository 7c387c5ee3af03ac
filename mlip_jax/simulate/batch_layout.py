"""The shapes of a batch of structures that relax: sizes, order, how long rows are."""

import dataclasses
from collections.abc import Sequence

import jax

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, exact_bucket, largest_range
from mlip_jax.data.shapes import atom_ladder, row_ladder
from mlip_jax.data.structure import Structure
from mlip_jax.models import Requirements
from mlip_jax.neighbors.host import HostNeighbors, neighbor_list
from mlip_jax.simulate.settings import BatchRelaxationConfig

_MANY = 24
"""Structures for which a shape with shorter rows is compiled (measured with CHGNet)."""

_BLOCK = 16
"""Atoms at a time on a CPU, see `AtomicGraph`; a small batch is computed at once."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A structure that has not begun, and the longest row of its list and of its prefixes."""

    index: int
    row: int = 0
    prefixes: tuple[int, ...] = ()


def first_bucket(
    structures: Sequence[Structure], needs: Requirements, settings: BatchRelaxationConfig
) -> Bucket:
    """Graphs and atoms of the batches; rows are as short as can be."""
    sizes = [s.num_atoms for s in structures] or [1]
    atoms = max(max(sizes), min(sum(sizes), settings.batch_atoms))
    block = settings.block
    if not block and jax.default_backend() == "cpu" and atoms > 2 * _BLOCK:
        block = _BLOCK
    graphs = min(len(sizes), settings.batch_graphs)
    prefixes = tuple((float(c), 8) for c in needs.prefix_cutoffs)
    return Bucket(graphs, atom_ladder(atoms, block), 8, prefixes, block)


def in_order(
    structures: Sequence[Structure], needs: Requirements, settings: BatchRelaxationConfig
) -> list[Waiting]:
    """Like have like rows: the most triplets of an atom come first, then the longest row."""

    def look(i: int) -> Waiting:
        try:
            pairs = build_list(structures[i], needs, settings)
        except UserError:  # reported when its turn comes
            return Waiting(i)
        prefixes = tuple(pairs.max_count(c) for c in _wide(needs, settings))
        return Waiting(i, pairs.max_count(), prefixes)

    found = [look(i) for i in range(len(structures))]
    return sorted(found, key=lambda one: (one.prefixes, one.row), reverse=True)


def _wide(needs: Requirements, settings: BatchRelaxationConfig) -> list[float]:
    """What is within a prefix's cutoff later is within its cutoff and the skin now."""
    return [c + settings.skin for c in needs.prefix_cutoffs]


def fitting(
    bucket: Bucket,
    active: list[tuple[Structure, HostNeighbors]],
    waiting: list[Waiting],
    needs: Requirements,
    settings: BatchRelaxationConfig,
) -> Bucket:
    """The bucket with rows long enough for those that wait, too, and not far too long.

    Rows grow where they have to and shrink where half of the work would be for nothing (triplets go
    with the square of a prefix): few programs compile. Only for many structures does a shorter row
    save what its compilation costs.
    """
    shrinks = len(active) + len(waiting) >= _MANY
    exact = exact_bucket([pairs for _, pairs in active], _wide(needs, settings))
    longest = [
        max([k, *(one.prefixes[p] for one in waiting if one.prefixes)])
        for p, (_, k) in enumerate(exact.prefixes)
    ]
    prefixes = tuple(
        (c, _length(k, _round_up(needed, 4), shrinks and needed**2 < 0.5 * k**2))
        for (c, k), needed in zip(bucket.prefixes, longest, strict=True)
    )
    k_range = largest_range([structure for structure, _ in active], needs.reciprocal_cutoff)
    if k_range is not None and bucket.k_range is not None:
        a, b, c = (max(pair) for pair in zip(k_range, bucket.k_range, strict=True))
        k_range = (a, b, c)
    needed = max([exact.max_neighbors, *(one.row for one in waiting)])
    too_long = shrinks and needed < 0.5 * bucket.max_neighbors
    rows = _length(bucket.max_neighbors, row_ladder(needed), too_long)
    return dataclasses.replace(bucket, max_neighbors=rows, prefixes=prefixes, k_range=k_range)


def _length(current: int, fitting: int, far_too_long: bool) -> int:
    return fitting if far_too_long or fitting > current else current


def _round_up(number: int, multiple: int) -> int:
    return max(multiple, -(-number // multiple) * multiple)


def build_list(
    structure: Structure, needs: Requirements, settings: BatchRelaxationConfig
) -> HostNeighbors:
    """Neighbours within the cutoff and the skin.

    Raises:
        UserError: for an impossible structure.
    """
    cutoff = needs.cutoff + settings.skin
    return neighbor_list(structure.positions, structure.cell, structure.pbc, cutoff)
