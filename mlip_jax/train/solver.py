"""Exact least squares for models that are linear in their parameters.

The rows of all labels go through one QR factorisation, batch by batch, so that the design matrix
is never in memory and its condition number is never squared. What is left is a small triangle with
the same least-squares problem: Golub & Van Loan, "Matrix Computations" (2013), section 5.3.
"""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float
from pydantic import Field

from mlip_jax.config import UserError

_LOWEST, _HIGHEST = 1e-14, 1e2
"""Bounds of the search for the penalty, relative to the largest squared singular value."""


@dataclasses.dataclass(frozen=True)
class SolverConfig:
    """The section `solver`, in the place of `optimizer`: minimises the loss exactly.

    Attributes:
        name: `ridge` has a fixed penalty; `bayesian_ridge` chooses the one that the evidence of the
            data is largest for (MacKay, Neural Comput. 4, 415, 1992).
        alpha: penalty of `ridge` on the squares of the parameters, relative to the largest squared
            singular value of the design matrix.
    """

    name: Literal["ridge", "bayesian_ridge"] = "bayesian_ridge"
    alpha: Annotated[float, Field(ge=0)] = 1e-10


class Solution(NamedTuple):
    """What a least-squares problem came to.

    Attributes:
        coefficients: free columns first.
        alpha: penalty, relative to the largest squared singular value.
        noise: variance of the noise of a row of weight 1.
        rank: columns that the data determine, to the precision of float64.
        residual: sum of the squared residuals.
    """

    coefficients: Float[np.ndarray, " columns"]
    alpha: float
    noise: float
    rank: int
    residual: float


class Rows:
    """Rows of a least-squares problem, kept as a triangle.

    Args:
        columns: of the design matrix.

    Attributes:
        count: rows so far.
    """

    def __init__(self, columns: int):
        self.count = 0
        self._columns = columns
        self._waiting: list[np.ndarray] = []
        self._triangle = np.zeros((0, columns + 1))

    def add(
        self, matrix: Float[np.ndarray, "rows columns"], target: Float[np.ndarray, " rows"]
    ) -> None:
        """Adds rows.

        Raises:
            UserError: for a number that is not finite.
        """
        rows = np.column_stack([matrix, target])
        if not np.all(np.isfinite(rows)):
            raise UserError("solver: a row of the design matrix is not finite; check the data.")
        self.count += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= 4 * (self._columns + 1):
            self._reduce()

    def triangle(self) -> Float[np.ndarray, "_ _"]:
        """R of the QR factorisation of `[matrix | target]`, upper triangular."""
        self._reduce()
        return self._triangle

    def _reduce(self) -> None:
        if self._waiting:
            stacked = np.concatenate([self._triangle, *self._waiting])
            self._triangle = np.asarray(np.linalg.qr(stacked, mode="r"))
            self._waiting = []


def solve(rows: Rows, config: SolverConfig, free: int = 0) -> Solution:
    """Minimises `|A p - y|² + λ |p|²`, without a penalty on the first `free` columns.

    Raises:
        UserError: where there are no rows, or the free columns are not determined.
    """
    triangle = rows.triangle()
    size = triangle.shape[1] - 1
    if rows.count == 0 or size == 0:
        raise UserError("solver: no labels, or no parameters; there is nothing to solve for.")
    square = np.zeros((size + 1, size + 1))
    square[: len(triangle)] = triangle
    left, values, right = np.linalg.svd(square[free:size, free:size])
    projected = left.T @ square[free:size, size]
    spectrum = _Spectrum(values, projected, float(square[size, size]), max(rows.count - free, 1))
    alpha = config.alpha if config.name == "ridge" else spectrum.likeliest_alpha()
    along, residual = spectrum.ridge(alpha)
    penalised = right.T @ along
    unpenalised = _back_substitute(square[:free, :size], square[:free, size], penalised, free)
    return Solution(
        coefficients=np.concatenate([unpenalised, penalised]),
        alpha=alpha,
        noise=spectrum.penalised_squares(alpha) / spectrum.rows,
        rank=int(np.sum(spectrum.relative > len(values) * np.finfo(float).eps)) + free,
        residual=residual,
    )


class _Spectrum(NamedTuple):
    """A least-squares problem in the basis of its singular vectors.

    Attributes:
        values: singular values, decreasing.
        projected: target along the left singular vectors.
        rest: length of the target outside of the columns.
        rows: number of rows, less that of the free columns.
    """

    values: np.ndarray
    projected: np.ndarray
    rest: float
    rows: int

    @property
    def relative(self) -> np.ndarray:
        """Squared singular values over the largest."""
        return self.values**2 / max(self._largest, np.finfo(float).tiny)

    def ridge(self, alpha: float) -> tuple[np.ndarray, float]:
        """Coefficients along the right singular vectors, and the sum of squared residuals."""
        damped = self.relative + alpha
        kept = np.divide(self.relative, damped, out=np.zeros_like(damped), where=damped > 0)
        along = np.divide(
            kept * self.projected, self.values, out=np.zeros_like(kept), where=self.values > 0
        )
        return along, float(np.sum(((1.0 - kept) * self.projected) ** 2) + self.rest**2)

    def penalised_squares(self, alpha: float) -> float:
        """The minimum of `|A p - y|² + λ |p|²`."""
        along, residual = self.ridge(alpha)
        return residual + alpha * self._largest * float(along @ along)

    def likeliest_alpha(self) -> float:
        """The penalty for which the evidence is largest, the noise taken at its best value."""

        def surprise(log_alpha: float) -> float:
            alpha = float(np.exp(log_alpha))
            squares = max(self.penalised_squares(alpha), np.finfo(float).tiny)
            volume = np.sum(np.log(self.relative + alpha)) - len(self.values) * log_alpha
            return float(self.rows * np.log(squares) + volume)

        bounds = (float(np.log(_LOWEST)), float(np.log(_HIGHEST)))
        best: Any = scipy.optimize.minimize_scalar(surprise, bounds=bounds, method="bounded")
        return float(np.exp(best.x))

    @property
    def _largest(self) -> float:
        return float(self.values[0] ** 2) if len(self.values) else 0.0


def _back_substitute(upper, target, penalised: np.ndarray, free: int) -> np.ndarray:
    if free == 0:
        return np.zeros(0)
    try:
        return np.linalg.solve(upper[:, :free], target - upper[:, free:] @ penalised)
    except np.linalg.LinAlgError as error:
        raise UserError(
            "solver: the data do not determine the reference energies. Give isolated atoms, or set "
            "data.statistics.reference_energies: zero."
        ) from error
