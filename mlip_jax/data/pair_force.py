"""A quickly fitted pair force: what the forces of a set say about its stresses and energies.

Forces are fitted by least squares as sums over neighbours of a function of the distance (one for
each pair of elements). Such a model misses much, above all the pressure. But the deviatoric stress
that it implies, and the energies of frames of one composition, correlate with the true ones well
enough to tell signs, orders and units apart.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mlip_jax.data.structure import Structure
from mlip_jax.neighbors.host import HostNeighbors, neighbor_list

_CUTOFF = 6.0
_BASIS = 20
_MAX_ELEMENTS = 4
_MAX_ATOMS = 4000
_RIDGE = 1e-7

_GRID = np.linspace(0.3, _CUTOFF, 800)
_CENTERS = np.linspace(0.7, _CUTOFF, _BASIS)


@dataclasses.dataclass(frozen=True, eq=False)
class PairFit:
    """Labels of frames beside what the fitted pair force says.

    Attributes:
        frames: those that were fitted.
        energy: predicted, eV, up to a constant for each composition.
        stress: predicted, eV/Å^3; 0 where not all directions are periodic.
        explained: share of the variance of the forces that the fit explains.
    """

    frames: tuple[Structure, ...]
    energy: Float[np.ndarray, " frames"]
    stress: Float[np.ndarray, "frames 3 3"]
    explained: float


def fit(structures: Sequence[Structure]) -> PairFit | None:
    """Fits a pair force to the forces of some frames (about 4000 atoms in all).

    Returns:
        `None` where fewer than five frames have forces, or there are more than four elements.
    """
    frames = _choose(structures)
    elements = sorted({int(z) for s in frames for z in s.atomic_numbers})
    if len(frames) < 5 or len(elements) > _MAX_ELEMENTS:
        return None
    force, energy, stress = map(list, zip(*(_design(s, elements) for s in frames), strict=True))
    labels = np.concatenate([np.ravel(np.asarray(s.labels.forces)) for s in frames])
    matrix = np.concatenate(force)
    normal = matrix.T @ matrix
    normal += _RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    coefficients = np.linalg.solve(normal, matrix.T @ labels)
    error = labels - matrix @ coefficients
    return PairFit(
        frames=tuple(frames),
        energy=np.stack(energy) @ coefficients,
        stress=np.stack(stress) @ coefficients,
        explained=1.0 - float(error @ error / (labels @ labels)),
    )


def _choose(structures: Sequence[Structure]) -> list[Structure]:
    usable = [
        s
        for s in structures
        if s.labels.forces is not None and s.num_atoms > 1 and np.abs(s.labels.forces).max() > 1e-2
    ]
    total = sum(s.num_atoms for s in usable)
    return usable[:: max(1, -(-total // _MAX_ATOMS))]


def _design(structure: Structure, elements: list[int]):
    """Forces `[3 atoms, columns]`, energy `[columns]`, stress `[3, 3, columns]`."""
    pairs = neighbor_list(structure.positions, structure.cell, structure.pbc, _CUTOFF)
    vectors = _vectors(structure, pairs)
    units = vectors / pairs.distances[:, None]
    species = np.searchsorted(elements, structure.atomic_numbers)
    pair_species = np.sort([species[pairs.centers], species[pairs.neighbors]], axis=0)
    kind = pair_species[0] * len(elements) + pair_species[1]
    slope = _slopes(pairs.distances)
    potential = _interpolate(pairs.distances)
    shape = (len(elements) ** 2, _BASIS)
    force = np.zeros((structure.num_atoms, 3, *shape))
    energy, stress = np.zeros(shape), np.zeros((3, 3, *shape))
    for k in np.unique(kind):
        own = kind == k
        values = units[own][:, :, None] * slope[own][:, None, :]
        np.add.at(force[:, :, k], pairs.centers[own], values)
        energy[k] = 0.5 * potential[own].sum(axis=0)
        stress[:, :, k] = 0.5 * np.einsum("pa,pbk->abk", vectors[own], values)
    if structure.pbc.all():
        stress /= abs(np.linalg.det(structure.cell))
    else:
        stress[:] = 0.0
    return force.reshape(3 * structure.num_atoms, -1), energy.ravel(), stress.reshape(3, 3, -1)


def _vectors(structure: Structure, pairs: HostNeighbors) -> np.ndarray:
    differences = structure.positions[pairs.neighbors] - structure.positions[pairs.centers]
    return differences + pairs.shifts.astype(float) @ structure.cell


def _slopes(r: np.ndarray) -> np.ndarray:
    """dU/dr of each basis function: Gaussians under a cosine cutoff."""
    width = _CENTERS[1] - _CENTERS[0]
    envelope = 0.5 * (np.cos(np.pi * r / _CUTOFF) + 1.0)
    return envelope[:, None] * np.exp(-0.5 * ((r[:, None] - _CENTERS) / width) ** 2)


def _interpolate(r: np.ndarray) -> np.ndarray:
    """U(r) of each basis function, zero at the cutoff, from the trapezoidal rule on a grid."""
    slopes = _slopes(_GRID)
    step = _GRID[1] - _GRID[0]
    integral = np.concatenate([np.zeros((1, _BASIS)), np.cumsum(slopes[1:] + slopes[:-1], axis=0)])
    values = 0.5 * step * (integral - integral[-1])
    position = np.clip((r - _GRID[0]) / step, 0.0, len(_GRID) - 1.001)
    index = position.astype(int)
    share = (position - index)[:, None]
    return (1.0 - share) * values[index] + share * values[index + 1]
