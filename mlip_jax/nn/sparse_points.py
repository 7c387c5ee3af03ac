"""Sparse points of Gaussian processes, chosen on the host from features of many atoms."""

from typing import Literal

import numpy as np
from jaxtyping import Float

Selection = Literal["farthest", "cur"]


class Reservoir:
    """A uniform random sample of rows that arrive in parts, of bounded size; Vitter (1985).

    The sample depends on the order of the rows and the seed only, not on the parts.

    Args:
        size: the most rows that are kept.
        seed: of the random numbers.
    """

    def __init__(self, size: int, seed: int):
        self._size, self._seen = size, 0
        self._random = np.random.default_rng(seed)
        self._rows: list[np.ndarray] = []

    def add(self, rows: Float[np.ndarray, "atoms features"]) -> None:
        """Offers rows to the sample."""
        for row in rows:
            self._seen += 1
            if len(self._rows) < self._size:
                self._rows.append(np.array(row))
            elif (place := int(self._random.integers(self._seen))) < self._size:
                self._rows[place] = np.array(row)

    def rows(self) -> Float[np.ndarray, "sample features"]:
        """The sample."""
        return np.array(self._rows) if self._rows else np.zeros((0, 0))


def select(
    features: Float[np.ndarray, "atoms features"], number: int, method: Selection
) -> Float[np.ndarray, "chosen features"]:
    """Rows that stand for all, `number` of them or as many as differ.

    Args:
        features: rows to choose from.
        number: of rows.
        method: `farthest`: each next row is the one farthest from those chosen, the first the one
            farthest from the mean; Gonzalez (1985). `cur`: rows of high leverage, each next one
            after what the chosen ones span is projected out (Imbalzano et al., J. Chem. Phys. 148,
            241730, 2018, section II), and the farthest ones once they span all.
    """
    chosen = _cur(features, number) if method == "cur" else []
    return features[_farthest(features, number, chosen)]


def _farthest(features: np.ndarray, number: int, chosen: list[int]) -> list[int]:
    """Adds to the rows chosen so far those that are farthest, one by one."""
    chosen = list(chosen)
    start = features[chosen] if chosen else features.mean(axis=0, keepdims=True)
    gaps = np.min([np.sum((features - row) ** 2, axis=1) for row in start], axis=0)
    while len(chosen) < min(number, len(features)):
        best = int(np.argmax(gaps))
        if chosen and gaps[best] <= _smallest(features):
            break
        to_it = np.sum((features - features[best]) ** 2, axis=1)
        gaps = np.minimum(gaps, to_it) if chosen else to_it
        chosen.append(best)
    return chosen


def _cur(features: np.ndarray, number: int) -> list[int]:
    """Rows of the largest leverage on the first singular vector, until they span all rows."""
    rest, chosen = features.copy(), []
    while len(chosen) < min(number, len(features)):
        sizes = np.sum(rest**2, axis=1)
        leverages = np.where(sizes > _smallest(features), (rest @ _leading(rest)) ** 2, -1.0)
        leverages[chosen] = -1.0
        best = int(np.argmax(leverages))
        if leverages[best] < 0.0:
            break
        direction = rest[best] / np.sqrt(sizes[best])
        rest = rest - np.outer(rest @ direction, direction)
        chosen.append(best)
    return chosen


def _leading(matrix: np.ndarray) -> np.ndarray:
    """The right singular vector of the largest singular value, by power iteration.

    Leverages need a few digits only; it starts from the direction of the longest row.
    """
    vector = matrix[np.argmax(np.sum(matrix**2, axis=1))]
    for _ in range(_ITERATIONS):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / max(float(np.linalg.norm(vector)), np.finfo(float).tiny)
    return vector


def _smallest(features: np.ndarray) -> float:
    """Squared distance below which rows are the same."""
    return _DISTINCT * max(float(np.sum(features**2, axis=1).max()), np.finfo(float).tiny)


_ITERATIONS = 20
"""Of the power iteration."""

_DISTINCT = 1e-14
"""Squared distance of rows that are the same, relative to the largest squared length."""
