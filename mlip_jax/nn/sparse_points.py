"""Sparse points of Gaussian processes, chosen on the host from features of many atoms."""

from typing import Literal

import numpy as np
from jaxtyping import Float

Selection = Literal["farthest", "cur"]


class Reservoir:
    """A uniform random sample of rows that arrive in parts, of bounded size; Li (1994).

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
            after what the chosen ones span is projected out; Imbalzano et al., J. Chem. Phys. 148,
            241730 (2018), section II.
    """
    chosen = _farthest(features, number) if method == "farthest" else _cur(features, number)
    return features[chosen]


def _farthest(features: np.ndarray, number: int) -> list[int]:
    squares = np.sum(features**2, axis=1)
    distances = np.sum((features - features.mean(axis=0)) ** 2, axis=1)
    smallest = _DISTINCT * max(float(squares.max(initial=0.0)), np.finfo(float).tiny)
    chosen: list[int] = []
    while len(chosen) < min(number, len(features)):
        farthest = int(np.argmax(distances))
        if chosen and distances[farthest] <= smallest:
            break
        to_it = np.sum((features - features[farthest]) ** 2, axis=1)
        distances = np.minimum(distances, to_it) if chosen else to_it
        chosen.append(farthest)
    return chosen


def _cur(features: np.ndarray, number: int) -> list[int]:
    rest = features.copy()
    squares = np.sum(rest**2, axis=1)
    smallest = _DISTINCT * max(float(squares.max(initial=0.0)), np.finfo(float).tiny)
    chosen: list[int] = []
    # The leverage on the first singular vector, with the chosen rows projected out of the others.
    while len(chosen) < min(number, len(features)):
        sizes = np.sum(rest**2, axis=1)
        sizes[chosen] = 0.0
        if sizes.max() <= smallest:
            break
        left = _leading_left(rest)
        scores = np.where(sizes > smallest, left**2, -1.0)
        scores[chosen] = -2.0
        best = int(np.argmax(scores))
        direction = rest[best] / np.linalg.norm(rest[best])
        rest = rest - np.outer(rest @ direction, direction)
        chosen.append(best)
    if len(chosen) < min(number, len(features)):
        others = np.setdiff1d(np.arange(len(features)), chosen)
        more = _farthest(features[others], number - len(chosen))
        chosen += others[more].tolist()
    return chosen


def _leading_left(matrix: np.ndarray) -> np.ndarray:
    """The left singular vector of the largest singular value."""
    _, vectors = np.linalg.eigh(matrix.T @ matrix)
    left = matrix @ vectors[:, -1]
    return left / max(float(np.linalg.norm(left)), np.finfo(float).tiny)


_DISTINCT = 1e-14
"""Squared distance, relative to the largest squared length, below which rows are the same."""
