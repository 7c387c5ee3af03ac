"""Whether a crystal is cubic, with its axes along x, y and z."""

import itertools

import numpy as np
from jaxtyping import Float

from mlip_jax.data.structure import Structure

_ABOUT_Z = np.diag([-1.0, -1.0, 1.0])
_ABOUT_DIAGONAL = np.roll(np.eye(3), 1, axis=0)
"""A half turn about z and a third of a turn about [111]: the rotations of 23, which every cubic
point group contains."""


def is_cubic(structure: Structure, tolerance: float = 0.02) -> bool:
    """Whether all rotations of the point group 23, each with some translation, leave it as it is.

    That makes tensors of elastic constants cubic: C11, C12 and C44, in the axes of the structure.

    Args:
        structure: periodic in all directions, with any cell of the crystal.
        tolerance: Å, how far an atom, or a lattice vector, may lie from where it belongs.
    """
    return bool(np.all(structure.pbc)) and all(
        _is_symmetric(structure, rotation, tolerance) for rotation in (_ABOUT_Z, _ABOUT_DIAGONAL)
    )


def _is_symmetric(
    structure: Structure, rotation: Float[np.ndarray, "3 3"], tolerance: float
) -> bool:
    cell, numbers = np.asarray(structure.cell), np.asarray(structure.atomic_numbers)
    if np.max(_distances(cell @ rotation.T, cell)) > tolerance:
        return False
    turned = structure.positions @ rotation.T
    rare = min(np.unique(numbers), key=lambda z: np.sum(numbers == z))
    first, *_ = candidates = np.flatnonzero(numbers == rare)
    for other in candidates:
        moved = turned + (structure.positions[other] - turned[first])
        apart = _distances(moved[:, None] - structure.positions[None], cell)
        apart = np.where(numbers[:, None] == numbers[None], apart, np.inf)
        if np.max(np.min(apart, axis=1)) <= tolerance:
            return True
    return False


def _distances(
    vectors: Float[np.ndarray, "... 3"], cell: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "..."]:
    """Distances [Å] of vectors from the nearest lattice vectors."""
    fractions = vectors @ np.linalg.inv(cell)
    fractions = fractions - np.round(fractions)
    images = [
        np.linalg.norm((fractions + np.array(shift)) @ cell, axis=-1)
        for shift in itertools.product((-1, 0, 1), repeat=3)
    ]
    return np.min(images, axis=0)
