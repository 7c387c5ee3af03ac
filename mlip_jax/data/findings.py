"""What stands out in a set: overlapping atoms, duplicates, outliers."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.neighbors.host import neighbor_list

_OVERLAP = 0.55
"""Atoms closer than this share of the sum of their covalent radii overlap."""

_OUTLIER = 6.0
"""Deviations from the median, in units of 1.4826 times the median deviation, that stand out."""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Two atoms too close to each other.

    Attributes:
        frame: index of the structure.
        atoms: their indices (equal for an atom and its own image).
        distance: Å.
    """

    frame: int
    atoms: tuple[int, int]
    distance: float


@dataclasses.dataclass(frozen=True)
class Outlier:
    """A structure that stands out: its index, name and the value that does it."""

    frame: int
    name: str
    value: float


def overlaps(frame: int, structure: Structure) -> list[Overlap]:
    """The closest two atoms of a structure, where they overlap."""
    radii = covalent_radii[structure.atomic_numbers]
    reach = 2.0 * _OVERLAP * float(radii.max())
    try:
        pairs = neighbor_list(structure.positions, structure.cell, structure.pbc, reach)
    except UserError:
        # Two atoms at one place, which the list refuses: the shortest distance says which.
        return [_coincident(frame, structure)]
    close = pairs.distances < _OVERLAP * (radii[pairs.centers] + radii[pairs.neighbors])
    found = np.flatnonzero(close & (pairs.centers <= pairs.neighbors))
    order = found[np.argsort(pairs.distances[found])][:1]
    return [
        Overlap(frame, (int(pairs.centers[p]), int(pairs.neighbors[p])), float(pairs.distances[p]))
        for p in order
    ]


def _coincident(frame: int, structure: Structure) -> Overlap:
    differences = structure.positions[:, None] - structure.positions[None, :]
    fractional = differences @ np.linalg.pinv(structure.cell)
    differences = differences - np.where(structure.pbc, np.round(fractional), 0) @ structure.cell
    distances = np.linalg.norm(differences, axis=-1)
    distances[np.tril_indices(len(distances))] = np.inf
    first, second = np.unravel_index(np.argmin(distances), distances.shape)
    return Overlap(frame, (int(first), int(second)), float(distances[first, second]))


def duplicates(structures: Sequence[Structure]) -> tuple[tuple[int, int], ...]:
    """Pairs of structures with the same atoms at the same places, but for a translation."""
    seen: dict[bytes, int] = {}
    found = []
    for index, structure in enumerate(structures):
        relative = structure.positions - structure.positions[0]
        values = np.round(np.concatenate([structure.cell, relative]) * 1e4).astype(np.int64)
        text = structure.atomic_numbers.tobytes() + values.tobytes()
        first = seen.setdefault(hashlib.blake2b(text).digest(), index)
        if first != index:
            found.append((first, index))
    return tuple(found)


def outliers(
    structures: Sequence[Structure], values: Sequence[tuple[int, float]], *, by_distance: bool
) -> tuple[Outlier, ...]:
    """Values far from the median; for forces, on a logarithmic scale and upwards only."""
    numbers = np.array([v for _, v in values if by_distance or v > 0.0])
    if len(numbers) < 5:
        return ()
    scale = numbers if by_distance else np.log(numbers)
    center = np.median(scale)
    spread = 1.4826 * max(float(np.median(np.abs(scale - center))), 1e-12)
    found = []
    for index, value in values:
        if not by_distance and value <= 0.0:
            continue
        deviation = (value if by_distance else np.log(value)) - center
        score = abs(deviation) if by_distance else deviation
        if score > _OUTLIER * spread:
            found.append((score, Outlier(index, structures[index].name, float(value))))
    return tuple(o for _, o in sorted(found, key=lambda item: -item[0]))
