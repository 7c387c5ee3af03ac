"""Pairs of frames whose energies, forces and stresses must agree: dE = V σ:ε and dE = -F·dx.

Both are trapezoidal: with the mean stress (force) of the two frames the error is of third order in
the strain (displacement).
"""

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from mlip_jax.data.structure import Structure

_MAX_STRAIN = 0.08
_MAX_DISPLACEMENT = 1.2
"""Å, of any atom between two frames."""

_FRAMES_PER_GROUP = 60
_PAIRS = 4000


@dataclasses.dataclass(frozen=True, eq=False)
class StrainedPairs:
    """Pairs of frames with the same fractional coordinates in different cells.

    Attributes:
        energy: difference of the energies per atom, eV.
        strain: strain that leads from the one to the other, relative to the mean cell.
        stress: mean of the two stresses, as labelled, eV/Å^3.
        volume: of the mean cell per atom, Å^3.
    """

    energy: Float[np.ndarray, " pairs"]
    strain: Float[np.ndarray, "pairs 3 3"]
    stress: Float[np.ndarray, "pairs 3 3"]
    volume: Float[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def work(self) -> Float[np.ndarray, " pairs"]:
        """V σ:ε per atom [eV], which is `energy` where the stress is right."""
        return self.volume * np.einsum("pab,pab->p", self.stress, self.strain)

    def select(self, mask: np.ndarray) -> "StrainedPairs":
        """The pairs where a mask is true."""
        return StrainedPairs(
            self.energy[mask], self.strain[mask], self.stress[mask], self.volume[mask]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class DisplacedPairs:
    """Pairs of frames in the same cell whose atoms moved a little.

    Attributes:
        energy: difference of the energies per atom, eV.
        work: -F·dx per atom with the mean of the two forces, eV.
    """

    energy: Float[np.ndarray, " pairs"]
    work: Float[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.energy)


def strained_pairs(structures: Iterable[Structure]) -> StrainedPairs:
    """Finds pairs of the same crystal under different strain that have energies and stresses."""
    usable = (
        s
        for s in structures
        if s.labels.energy is not None and s.labels.stress is not None and s.pbc.all()
    )
    rows = []
    for first, second in _pairs(usable, _crystal_key):
        mean_cell = 0.5 * (first.cell + second.cell)
        volume = abs(np.linalg.det(mean_cell))
        if volume < 0.8 * abs(np.linalg.det(first.cell)):
            continue  # cells of opposite handedness, or far apart
        gradient = np.linalg.solve(mean_cell, second.cell - first.cell)
        strain = 0.5 * (gradient + gradient.T)
        rotation = np.abs(gradient - strain).max()
        if not 1e-5 < np.abs(strain).max() < _MAX_STRAIN or rotation > _MAX_STRAIN:
            continue
        a, b = first.labels, second.labels
        assert a.energy is not None
        assert b.energy is not None
        assert a.stress is not None
        assert b.stress is not None
        energy, stress = b.energy - a.energy, 0.5 * (a.stress + b.stress)
        rows.append((energy / first.num_atoms, strain, stress, volume / first.num_atoms))
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0)] * 4
    energy, strain, stress, volume = columns
    return StrainedPairs(energy, strain.reshape(-1, 3, 3), stress.reshape(-1, 3, 3), volume)


def displaced_pairs(structures: Iterable[Structure]) -> DisplacedPairs:
    """Finds pairs of frames with the same atoms and cell, and compares dE with -F·dx.

    Molecules are turned onto each other first; the pairs with the smallest displacements count.
    """
    usable = (
        s
        for s in structures
        if s.num_atoms > 1 and s.labels.energy is not None and s.labels.forces is not None
    )
    rows = []
    for first, second in _pairs(usable, _frame_key):
        displacement, forces = _displacement(first, second)
        size = np.abs(displacement).max()
        if 1e-6 < size < _MAX_DISPLACEMENT:
            work = -float(np.sum(forces * displacement))
            assert first.labels.energy is not None
            assert second.labels.energy is not None
            energy = second.labels.energy - first.labels.energy
            rows.append((size, energy / first.num_atoms, work / first.num_atoms))
    rows.sort(key=lambda row: row[0])
    table = np.array(rows[: max(200, len(rows) // 4)]).reshape(-1, 3)
    return DisplacedPairs(table[:, 1], table[:, 2])


def _displacement(first: Structure, second: Structure):
    """Displacements of the atoms and the mean of the forces, in the frame of the first."""
    forces, other_forces = first.labels.forces, second.labels.forces
    assert forces is not None
    assert other_forces is not None
    if not first.pbc.any():
        a = first.positions - first.positions.mean(axis=0)
        b = second.positions - second.positions.mean(axis=0)
        u, _, vt = np.linalg.svd(b.T @ a)
        turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        return b @ turn - a, 0.5 * (forces + other_forces @ turn)
    displacement = second.positions - first.positions
    fractional = displacement @ np.linalg.pinv(first.cell)
    displacement = displacement - np.where(first.pbc, np.round(fractional), 0.0) @ first.cell
    displacement = displacement - displacement.mean(axis=0)
    return displacement, 0.5 * (forces + other_forces)


def _crystal_key(structure: Structure) -> Hashable:
    fractional = (structure.positions - structure.positions[0]) @ np.linalg.inv(structure.cell)
    rounded = np.round(fractional * 1000).astype(int) % 1000
    return structure.source, structure.atomic_numbers.tobytes(), rounded.tobytes()


def _frame_key(structure: Structure) -> Hashable:
    cell = np.round(structure.cell * 1000).astype(int) if structure.pbc.any() else np.zeros(0)
    return structure.source, structure.atomic_numbers.tobytes(), cell.tobytes()


def _pairs(structures: Iterable[Structure], key) -> Iterator[tuple[Structure, Structure]]:
    """Pairs within groups of equal keys, at most some thousand, spread over the groups."""
    groups: dict[Hashable, list[Structure]] = {}
    for structure in structures:
        groups.setdefault(key(structure), []).append(structure)
    chosen = [_spread(members) for members in groups.values() if len(members) > 1]
    total = sum(len(members) * (len(members) - 1) // 2 for members in chosen)
    every = max(1, -(-total // _PAIRS))
    pairs = ((a, b) for members in chosen for i, a in enumerate(members) for b in members[i + 1 :])
    return (pair for number, pair in enumerate(pairs) if number % every == 0)


def _spread(members: Sequence[Structure]) -> list[Structure]:
    every = max(1, -(-len(members) // _FRAMES_PER_GROUP))
    return list(members[::every])
