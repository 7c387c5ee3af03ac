"""Automatic relevance determination: a penalty for every parameter, chosen by the evidence.

M. E. Tipping, J. Mach. Learn. Res. 1, 211 (2001), eq. 16 to 18, for the penalties λ = noise / prior
variance. Parameters that the data do not ask for get ever larger ones and are left out.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

_IRRELEVANT = 1e8
"""A parameter is left out where its penalty exceeds the squares of its column by this factor."""

_CONVERGED = 1e-2
"""Change of the logarithms of the penalties below which the iteration stops."""

_ITERATIONS = 300


class Relevance(NamedTuple):
    """Parameters with penalties of their own.

    Attributes:
        coefficients: zero for parameters left out.
        factor: F, with `noise F Fᵀ` the covariance of the coefficients.
        penalties: λ; `inf` for parameters left out.
        noise: variance of the noise of a row.
        residual: sum of the squared residuals.
    """

    coefficients: Float[np.ndarray, " columns"]
    factor: Float[np.ndarray, "columns columns"]
    penalties: Float[np.ndarray, " columns"]
    noise: float
    residual: float


def determine(
    matrix: Float[np.ndarray, "_ columns"], target: Float[np.ndarray, " _"], rows: int
) -> Relevance:
    """Penalties and coefficients of `|A p - y|² + Σ_k λ_k p_k²`.

    Args:
        matrix: A, or the triangle of a QR factorisation of it and y.
        target: y, or what the triangle has of it.
        rows: rows of A.
    """
    size = matrix.shape[1]
    tiny = np.finfo(float).tiny
    squares = np.maximum(np.sum(matrix**2, axis=0), tiny)
    penalties = 1e-6 * squares
    kept, noise = np.arange(size), tiny
    for _ in range(_ITERATIONS):
        coefficients, factor = _ridge(matrix[:, kept], target, penalties[kept])
        residual = float(np.sum((target - matrix[:, kept] @ coefficients) ** 2))
        determined = np.clip(1.0 - penalties[kept] * np.sum(factor**2, axis=1), 1e-12, 1.0)
        noise = max(residual / max(rows - determined.sum(), 1.0), tiny)
        new = np.maximum(determined * noise / np.maximum(coefficients**2, tiny), tiny)
        change = np.abs(np.log(new / penalties[kept]))
        penalties[kept] = np.where(new > _IRRELEVANT * squares[kept], np.inf, new)
        kept = kept[np.isfinite(penalties[kept])]
        if len(kept) == len(new) and np.max(change, initial=0.0) < _CONVERGED:
            break
    coefficients, factor = _ridge(matrix[:, kept], target, penalties[kept])
    residual = target - matrix[:, kept] @ coefficients
    full, wide = np.zeros(size), np.zeros((size, size))
    full[kept], wide[np.ix_(kept, kept)] = coefficients, factor
    return Relevance(full, wide, penalties, noise, float(residual @ residual))


def _ridge(matrix, target, penalties) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, and F with `(AᵀA + diag λ)⁻¹ = F Fᵀ`, by a QR of the stacked matrix."""
    stacked = np.concatenate([matrix, np.diag(np.sqrt(penalties))])
    orthogonal, upper = np.linalg.qr(stacked)
    factor = scipy.linalg.solve_triangular(upper, np.eye(len(upper)))
    return factor @ (orthogonal[: len(target)].T @ target), factor
