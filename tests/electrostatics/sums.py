"""Electrostatic energies by plain loops of numpy: what the library is tested against."""

import itertools
import math
import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("MLIP_JAX_SHARED", ROOT / "../shared")) / "reference/electrostatics"
REASON = f"no reference values in {REFERENCE}"

K = 14.3996454784255


def images(cell, reach):
    """Lattice vectors up to `reach` multiples of each cell vector."""
    steps = itertools.product(range(-reach, reach + 1), repeat=3)
    return np.array(list(steps)) @ cell


def ewald_matrix(positions, cell, widths, alpha, real, reciprocal):
    """Interactions of Gaussian charges [eV/e²], self-energies included, with a free splitting.

    Unlike the library, most of it is summed in real space: charges are split into Gaussians of
    another width, `erfc(alpha r)/r` against `erfc(r/√2γ)/r`.
    """
    number = len(positions)
    volume = abs(np.linalg.det(cell))
    shifts = images(cell, real)
    k = images(2.0 * np.pi * np.linalg.inv(cell).T, reciprocal)
    squares = (k**2).sum(axis=1)
    k, squares = k[squares > 0.0], squares[squares > 0.0]
    strengths = 4.0 * np.pi / volume * np.exp(-squares / (4.0 * alpha**2)) / squares
    matrix = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            vector = positions[j] - positions[i]
            gamma = math.hypot(widths[i], widths[j])
            for r in np.linalg.norm(vector + shifts, axis=1):
                if r > 1e-9:
                    matrix[i, j] += math.erfc(alpha * r) / r
                    matrix[i, j] -= math.erfc(r / (math.sqrt(2.0) * gamma)) / r
            matrix[i, j] += np.sum(strengths * np.cos(k @ vector))
            # Averages over the cell of what was added in real space: the uniform background.
            matrix[i, j] -= np.pi / (volume * alpha**2) - 2.0 * np.pi * gamma**2 / volume
        matrix[i, i] -= 2.0 * alpha / math.sqrt(math.pi)
        matrix[i, i] += 1.0 / (math.sqrt(math.pi) * widths[i])
    return K * matrix


def open_matrix(positions, widths):
    """Likewise, without periodic images."""
    number = len(positions)
    matrix = np.zeros((number, number))
    for i, j in itertools.product(range(number), repeat=2):
        r = np.linalg.norm(positions[i] - positions[j])
        gamma = math.hypot(widths[i], widths[j])
        near = 2.0 / math.sqrt(2.0 * math.pi) / gamma
        matrix[i, j] = near if i == j else math.erf(r / (math.sqrt(2.0) * gamma)) / r
    return K * matrix


def equilibrate(matrix, electronegativities, hardness, total):
    """Charges and multiplier by the bordered system."""
    number = len(matrix)
    system = np.zeros((number + 1, number + 1))
    system[:number, :number] = matrix + np.diag(hardness)
    system[:number, number] = -1.0
    system[number, :number] = 1.0
    solved = np.linalg.solve(system, np.concatenate([-electronegativities, [total]]))
    return solved[:number], solved[number]


def cases(name):
    """The structures of a reference with their numbers; none where it is absent."""
    path = REFERENCE / name / "expected.npz"
    if not path.exists():
        return []
    arrays = np.load(path)
    return [
        {k.partition("_")[2]: arrays[k] for k in arrays.files if k.startswith(f"s{i}_")}
        for i in range(int(arrays["n_structures"]))
    ]
