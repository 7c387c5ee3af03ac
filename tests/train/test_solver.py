"""The algebra of exact solvers: QR by parts, ridge, evidence."""

import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.train.solver import Rows, SolverConfig, solve


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(300, 12)) @ np.diag(np.logspace(0, -5, 12))
    truth = rng.normal(size=12)
    return matrix, matrix @ truth + 1e-3 * rng.normal(size=300)


def streamed(matrix, target, parts):
    rows = Rows(matrix.shape[1])
    for chosen in np.array_split(np.arange(len(target)), parts):
        rows.add(matrix[chosen], target[chosen])
    return rows


@pytest.mark.parametrize("parts", [1, 7, 300])
def test_rows_in_parts_give_the_least_squares_solution(problem, parts):
    matrix, target = problem
    found = solve(streamed(matrix, target, parts), SolverConfig("ridge", alpha=0.0))
    expected, residual, *_ = np.linalg.lstsq(matrix, target)
    np.testing.assert_allclose(matrix @ found.coefficients, matrix @ expected, atol=1e-11)
    assert found.residual == pytest.approx(float(residual[0]))
    assert found.rank == 12


def test_a_ridge_is_that_of_the_augmented_rows_and_spares_free_columns(problem):
    matrix, target = problem
    free, alpha = 2, 1e-4
    found = solve(streamed(matrix, target, 3), SolverConfig("ridge", alpha=alpha), free=free)
    # The penalty is relative to the largest singular value once the free columns are projected out.
    first, rest = matrix[:, :free], matrix[:, free:]
    projected = rest - first @ np.linalg.lstsq(first, rest)[0]
    largest = np.linalg.norm(projected, 2)
    penalty = np.sqrt(alpha) * largest * np.eye(12)[free:]
    augmented = np.concatenate([matrix, penalty])
    expected = np.linalg.lstsq(augmented, np.r_[target, np.zeros(10)])[0]
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-7, atol=1e-9)


def test_the_evidence_finds_noise_and_signal():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(400, 30))
    truth, noise = 0.5, 0.2
    target = matrix @ rng.normal(scale=truth, size=30) + noise * rng.normal(size=400)
    found = solve(streamed(matrix, target, 4), SolverConfig("bayesian_ridge"))
    largest = np.linalg.norm(matrix, 2) ** 2
    # The penalty is the ratio of the variances, which 30 numbers determine to a factor of 2.
    assert found.alpha * largest == pytest.approx((noise / truth) ** 2, rel=1.0)
    assert found.noise == pytest.approx(noise**2, rel=0.2)


@pytest.mark.parametrize("free", [0, 3])
def test_the_factor_is_the_root_of_the_inverse_normal_matrix(problem, free):
    matrix, target = problem
    found = solve(streamed(matrix, target, 2), SolverConfig("ridge", alpha=1e-3), free=free)
    first, rest = matrix[:, :free], matrix[:, free:]
    if free:
        rest = rest - first @ np.linalg.lstsq(first, rest)[0]
    penalty = 1e-3 * np.linalg.norm(rest, 2) ** 2 * np.diag(np.arange(12) >= free)
    expected = np.linalg.inv(matrix.T @ matrix + penalty)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(
        (found.factor @ found.factor.T) / scale, expected / scale, rtol=0, atol=1e-7
    )


def test_relevance_finds_the_columns_that_matter():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(300, 40))
    truth = np.zeros(40)
    truth[[0, 5, 17, 30]] = [3.0, 1.0, -2.0, 0.5]
    target = matrix @ truth + 0.1 * rng.normal(size=300)
    found = solve(streamed(matrix, target, 3), SolverConfig("ard"), free=1)
    kept = np.flatnonzero(found.coefficients)
    assert set(kept) >= {0, 5, 17, 30}
    # A column without use stays where it fits the noise by more than one deviation: a third do.
    assert len(kept) < 4 + 0.5 * 36
    assert found.rank == len(kept)
    errors = found.coefficients - truth
    plain = solve(streamed(matrix, target, 3), SolverConfig("ridge", alpha=0.0)).coefficients
    assert np.abs(errors).max() < 0.03
    assert np.linalg.norm(errors) < np.linalg.norm(plain - truth)
    assert found.noise == pytest.approx(0.01, rel=0.2)
    # Those that matter have the variances of least squares on the columns that were kept.
    variances = np.diag(np.linalg.inv(matrix[:, kept].T @ matrix[:, kept]))
    relevant = np.isin(kept, [0, 5, 17, 30])
    found_variances = np.sum(found.factor**2, axis=1)[kept]
    np.testing.assert_allclose(found_variances[relevant], variances[relevant], rtol=0.1)


def test_columns_that_are_the_same_are_survived(problem):
    matrix, target = problem
    twice = np.concatenate([matrix, matrix[:, :1]], axis=1)
    for config in (SolverConfig("ridge", alpha=1e-12), SolverConfig("bayesian_ridge")):
        found = solve(streamed(twice, target, 2), config)
        assert found.rank == 12
        assert np.abs(twice @ found.coefficients - target).max() < 0.01


def test_what_cannot_be_solved_is_named():
    with pytest.raises(UserError, match="nothing to solve"):
        solve(Rows(3), SolverConfig())
    with pytest.raises(UserError, match="not finite"):
        Rows(1).add(np.array([[np.nan]]), np.zeros(1))
    rows = Rows(2)
    rows.add(np.array([[0.0, 1.0], [0.0, 2.0]]), np.ones(2))
    with pytest.raises(UserError, match="reference energies"):
        solve(rows, SolverConfig("ridge"), free=1)
