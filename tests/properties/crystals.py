"""Primitive crystals, relaxed ones, and elastic tensors in their forms."""

from typing import Any

import numpy as np

from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.simulate.batch_relax import relax_many
from mlip_jax.simulate.settings import BatchRelaxationConfig


def diamond(lattice: float, number: int = 14) -> Structure:
    """Two atoms a cell."""
    return _face_centred(lattice, number, np.array([[0.0] * 3, [0.25] * 3]))


def fcc(lattice: float, number: int) -> Structure:
    """One atom a cell."""
    return _face_centred(lattice, number, np.zeros((1, 3)))


def relaxed(potential: Potential, structure: Structure, cell: Any = "fixed") -> Structure:
    """The nearest minimum, labelled with its stress."""
    settings = BatchRelaxationConfig(cell=cell, max_force=1e-7, max_stress=1e-7, max_steps=5000)
    (result,) = relax_many(potential, [structure], settings)
    assert result.converged, result.status
    return result.structure


def cubic(like: Any, shear: float | None = None) -> np.ndarray:
    """Elastic constants [6 6] of a cubic crystal, from C11 and C12 (and C44) of a matrix."""
    c11, c12 = like[0][0], like[0][1]
    found = np.diag([c11 - c12] * 3 + [like[3][3] if shear is None else shear] * 3)
    found[:3, :3] += c12
    return found


def full_tensor(stiffness: Any) -> np.ndarray:
    """C_ijkl of a matrix in Voigt's order."""
    index = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    return np.asarray(stiffness)[index[:, :, None, None], index[None, None]]


def _face_centred(lattice: float, number: int, basis: np.ndarray) -> Structure:
    cell = 0.5 * lattice * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    return Structure(np.full(len(basis), number), lattice * basis, cell, np.ones(3, bool))
