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
from mlip_jax.train import relevance

_LOWEST, _HIGHEST = 1e-14, 1e2
"""Bounds of the search for the penalty, relative to the largest squared singular value."""


@dataclasses.dataclass(frozen=True)
class SolverConfig:
    """The section `solver`: minimises the loss exactly; before and after an `optimizer`, if given.

    Attributes:
        name: `ridge` has a fixed penalty; `bayesian_ridge` chooses the one that the evidence of the
            data is largest for (MacKay, Neural Comput. 4, 415, 1992); `ard` chooses one for every
            parameter, and leaves out those without use (`relevance`).
        alpha: penalty of `ridge` on the squares of the parameters, relative to the largest squared
            singular value of the design matrix.
        posterior: keep the covariance of the parameters with the potential, for the variances of
            predictions (`mlip-jax predict --uncertainty`).
        grades: keep an active set of training environments, for extrapolation grades.
        nonlinear_iterations: steps of a search over parameters that the energies are not linear in,
            such as radial functions of moment tensors (`variable_projection`); each is a pass over
            the data, and another one where it lowered the loss.
        nonlinear_fraction: part of the structures that the search looks at, evenly spread; all
            count in the solution at its end.
    """

    name: Literal["ridge", "bayesian_ridge", "ard"] = "bayesian_ridge"
    alpha: Annotated[float, Field(ge=0)] = 1e-10
    posterior: bool = True
    grades: bool = True
    nonlinear_iterations: Annotated[int, Field(ge=0)] = 0
    nonlinear_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0


class Solution(NamedTuple):
    """What a least-squares problem came to.

    Attributes:
        coefficients: free columns first.
        factor: F, with `noise F Fᵀ` the covariance of the coefficients.
        alpha: penalty, relative to the largest squared singular value; of `ard` the median.
        noise: variance of the noise of a row of weight 1.
        rank: columns that the data determine, to the precision of float64; of `ard` those kept.
        residual: sum of the squared residuals.
    """

    coefficients: Float[np.ndarray, " columns"]
    factor: Float[np.ndarray, "columns columns"]
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
    square = _square(rows.triangle())
    size = len(square) - 1
    if rows.count == 0 or size == 0:
        raise UserError("solver: no labels, or no parameters; there is nothing to solve for.")
    penalised = square[free:, free:]
    solved = _relevance if config.name == "ard" else _ridge
    along, inner, alpha, noise, rank, residual = solved(penalised, rows.count - free, config)
    outer = _inverse(square[:free, :free])
    across = outer @ square[:free, free:size]
    factor = np.zeros((size, size))
    factor[:free, :free], factor[:free, free:], factor[free:, free:] = outer, -across @ inner, inner
    return Solution(
        coefficients=np.concatenate([outer @ square[:free, size] - across @ along, along]),
        factor=factor,
        alpha=alpha,
        noise=noise,
        rank=rank + free,
        residual=residual,
    )


def penalised_loss(triangle: Float[np.ndarray, "_ columns"], alpha: float, free: int = 0) -> float:
    """The minimum of what `solve` minimises, for rows with this triangle.

    Args:
        triangle: R of the QR factorisation of `[matrix | target]`.
        alpha: λ over the largest squared singular value of the columns that it is for.
        free: columns without a penalty, the first ones.
    """
    return _spectrum(_square(triangle)[free:, free:], 1)[0].penalised_squares(alpha)


def _square(triangle: np.ndarray) -> np.ndarray:
    """A triangle with the rows of zeros that it lacks where there are few rows."""
    square = np.zeros((triangle.shape[1], triangle.shape[1]))
    square[: len(triangle)] = triangle
    return square


def _spectrum(square: np.ndarray, rows: int) -> tuple["_Spectrum", np.ndarray]:
    """The problem of the triangle `[matrix | target]`, and its right singular vectors."""
    left, values, right = np.linalg.svd(square[:-1, :-1])
    projected, rest = left.T @ square[:-1, -1], float(square[-1, -1])
    return _Spectrum(values, projected, rest, max(rows, 1)), right


def _ridge(square: np.ndarray, rows: int, config: SolverConfig):
    """One penalty for all columns of the triangle `[matrix | target]`, given or most likely."""
    spectrum, right = _spectrum(square, rows)
    alpha = config.alpha if config.name == "ridge" else spectrum.likeliest_alpha()
    along, residual = spectrum.ridge(alpha)
    rank = int(np.sum(spectrum.relative > len(spectrum.values) * np.finfo(float).eps))
    inner = right.T * spectrum.damped(alpha)
    noise = spectrum.penalised_squares(alpha) / spectrum.rows
    return right.T @ along, inner, alpha, noise, rank, residual


def _relevance(square: np.ndarray, rows: int, config: SolverConfig):
    """A penalty for each column of the triangle `[matrix | target]`."""
    found = relevance.determine(square[:, :-1], square[:, -1], max(rows, 1))
    largest = max(float(np.linalg.norm(square[:-1, :-1], 2)) ** 2, np.finfo(float).tiny)
    kept = found.penalties[np.isfinite(found.penalties)]
    alpha = float(np.median(kept)) / largest if len(kept) else float("inf")
    return found.coefficients, found.factor, alpha, found.noise, len(kept), found.residual


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

    def damped(self, alpha: float) -> np.ndarray:
        """`1 / sqrt(s² + λ)` of every singular value s; 0 where both vanish."""
        squares = self.values**2 + alpha * self._largest
        return np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)

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


def _inverse(upper: np.ndarray) -> np.ndarray:
    """Inverse of the triangle of the free columns."""
    try:
        return np.linalg.inv(upper)
    except np.linalg.LinAlgError as error:
        raise UserError(
            "solver: the data do not determine the reference energies. Give isolated atoms, or set "
            "data.statistics.reference_energies: zero."
        ) from error
