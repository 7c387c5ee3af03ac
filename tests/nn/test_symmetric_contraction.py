"""Couplings against rotations, projectors and known numbers of invariants."""

import itertools

import numpy as np
import pytest

from mlip_jax.nn.angular import harmonic_components
from mlip_jax.nn.symmetric_contraction import couplings

ROUNDING = 1e-12  # sums of some hundred products of numbers below 1


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def wigner(degree: int, turn: np.ndarray) -> np.ndarray:
    """Matrix of a rotation, from harmonics at random points."""
    points = np.random.default_rng(1).normal(size=(4 * degree + 4, 3))
    before, after = (
        np.stack(
            np.broadcast_arrays(*harmonic_components(p[:, 0], p[:, 1], p[:, 2], degree)[degree])
        )
        for p in (points, points @ turn.T)
    )
    return np.linalg.lstsq(before.T, after.T, rcond=None)[0].T


def turned(coupling: np.ndarray, degrees, total: int, turn: np.ndarray) -> np.ndarray:
    """A coupling with all its axes rotated, `[paths, …]`."""
    axes = [*degrees, total] if total else list(degrees)
    for axis, degree in enumerate(axes, 1):
        coupling = np.moveaxis(np.tensordot(wigner(degree, turn), coupling, (1, axis)), 0, axis)
    return coupling


CASES = [
    ((2,), None, 2),
    ((1, 1), (0, 0), 0),
    ((1, 2), None, 3),
    ((1, 1), None, 1),
    ((1, 2, 3), None, 0),
    ((2, 2, 2), (0, 0, 0), 2),
    ((1, 1, 2, 2), (0, 0, 1, 2), 0),
    ((1, 1, 1, 2), (0, 0, 0, 1), 1),
    ((2, 2, 2, 2), (0, 0, 0, 0), 0),
]


@pytest.mark.parametrize(("degrees", "equal", "total"), CASES)
def test_couplings_are_equivariant_orthonormal_and_symmetric(degrees, equal, total):
    found = couplings(degrees, equal, total)
    assert len(found) > 0
    np.testing.assert_allclose(turned(found, degrees, total, rotation(0)), found, atol=ROUNDING)
    flat = found.reshape(len(found), -1)
    np.testing.assert_allclose(flat @ flat.T, (2 * total + 1) * np.eye(len(flat)), atol=ROUNDING)
    labels = equal or range(len(degrees))
    for i, j in itertools.combinations(range(len(degrees)), 2):
        if labels[i] == labels[j]:
            np.testing.assert_allclose(np.swapaxes(found, i + 1, j + 1), found, atol=ROUNDING)


@pytest.mark.parametrize(
    ("degrees", "equal", "total"),
    [
        pytest.param(*case, marks=pytest.mark.slow) if sum(case[0]) + case[2] > 7 else case
        for case in CASES
    ],
)
def test_couplings_are_all_there_are(degrees, equal, total):
    """Their number is the rank of the mean over all rotations and permutations."""
    shape = tuple(2 * l + 1 for l in (*degrees, *((total,) if total else ())))
    labels = tuple(equal or range(len(degrees)))
    axes = range(len(degrees))
    keeps = [
        p for p in itertools.permutations(axes) if all(labels[i] == labels[p[i]] for i in axes)
    ]
    size = int(np.prod(shape))
    # A power of the mean over three rotations and the permutations tends to the projector.
    mean = np.zeros((size, size))
    for seed in range(3):
        whole = np.ones((1, 1))
        for degree in (*degrees, *((total,) if total else ())):
            whole = np.kron(whole, wigner(degree, rotation(seed)))
        mean += (whole + whole.T) / 6
    swap = np.zeros((size, size))
    index = np.arange(size).reshape(shape)
    for p in keeps:
        order = np.transpose(index, (*p, *range(len(degrees), len(shape)))).ravel()
        swap[np.arange(size), order] += 1.0 / len(keeps)
    projector = np.linalg.matrix_power(swap @ mean @ swap, 2**14)
    assert len(couplings(degrees, equal, total)) == round(np.trace(projector))


def test_known_invariants():
    """The scalar, triple and pair products of vectors."""
    np.testing.assert_allclose(np.abs(couplings((1, 1))[0]), np.eye(3) / np.sqrt(3), atol=ROUNDING)
    epsilon = couplings((1, 1, 1))
    assert epsilon.shape == (1, 3, 3, 3)
    np.testing.assert_allclose(np.abs(epsilon).sum(), 6 / np.sqrt(6), atol=ROUNDING)
    # An antisymmetric coupling has no part that is symmetric in equal factors.
    assert len(couplings((1, 1, 1), (0, 0, 0))) == 0
    assert len(couplings((1, 1, 1, 1))) == 3
    assert len(couplings((1, 1, 1, 1), (0, 0, 0, 0))) == 1
    assert len(couplings((1, 2))) == 0


def test_equal_factors_have_one_degree():
    with pytest.raises(ValueError, match="labels"):
        couplings((1, 2), (0, 0))
