"""Radial functions of SOAP, on the host: overlaps of a smeared neighbour with a radial basis.

A neighbour at distance r is the Gaussian `exp(-α |r' - r|²)`, `α = 1 / (2 σ²)`. Its expansion
coefficients are `R_nl(r) Y_lm(r̂)`, with `R_nl(r) = ∫ g_nl(r') w_l(r', r) dr'` and the kernel

    w_l(r', r) = exp(-α (r'² + r²)) i_l(2 α r' r),

where i_l is the modified spherical Bessel function of the first kind; Bartók, Kondor & Csányi, PRB
87, 184115 (2013), eq. 27. Factors that all l share are left out: SOAP vectors are normalised. All
R_nl are smooth, even functions of r for even l and odd ones for odd l.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float

from mlip_jax.config import UserError

RadialBasis = Literal["gaussian", "gto", "polynomial"]

_DECAY = 1e-3
"""Value at which a Gaussian-type orbital ends, as in DScribe."""

_DEPENDENT = 1e-13
"""Smallest singular value of a basis, relative to the largest, that leaves some digits."""


class RadialSettings(NamedTuple):
    """What radial functions depend on; see `descriptors.soap.SOAP` for the fields."""

    basis: RadialBasis
    n_max: int
    l_max: int
    cutoff: float
    atom_sigma: float
    basis_error_exponent: float

    @property
    def alpha(self) -> float:
        """Exponent of the smeared density, 1/Å²."""
        return 0.5 / self.atom_sigma**2


def radial_functions(
    r: Float[np.ndarray, " points"], settings: RadialSettings
) -> Float[np.ndarray, "points degrees n_max"]:
    """R_nl of distances r [Å]."""
    return _BASES[settings.basis](r, settings)


def _scaled_bessel(degree: int, z: np.ndarray) -> np.ndarray:
    """`exp(-z) i_l(z)` for z >= 0."""
    z = np.maximum(z, 1e-30)
    return scipy.special.ive(degree + 0.5, z) * np.sqrt(0.5 * np.pi / z)


def _kernels(r: np.ndarray, other: np.ndarray, settings: RadialSettings) -> np.ndarray:
    """w_l of every pair of distances, `[points, degrees, others]`."""
    alpha = settings.alpha
    near = np.exp(-alpha * (r[:, None] - other[None, :]) ** 2)
    arguments = 2.0 * alpha * r[:, None] * other[None, :]
    degrees = range(settings.l_max + 1)
    return np.stack([near * _scaled_bessel(l, arguments) for l in degrees], axis=1)


def _gaussian(r: np.ndarray, settings: RadialSettings) -> np.ndarray:
    """Equally spaced Gaussians as in QUIP: w_l at their centres, made orthonormal.

    The centres reach from 0 to where a neighbour at the cutoff has decayed to
    `10^-basis_error_exponent`, that end left out.
    """
    n, alpha = settings.n_max, settings.alpha
    tail = settings.atom_sigma * np.sqrt(2.0 * settings.basis_error_exponent * np.log(10.0))
    centres = np.arange(n) * (settings.cutoff + tail) / n
    difference, total = centres[:, None] - centres[None, :], centres[:, None] + centres[None, :]
    covariance = np.exp(-alpha * difference**2)
    # ∫_0^∞ r² exp(-α (r - a)²) exp(-α (r - b)²) dr.
    squares = centres[:, None] ** 2 + centres[None, :] ** 2
    tails = np.sqrt(2.0) * alpha**1.5 * total * np.exp(-alpha * squares)
    error = 1.0 + scipy.special.erf(np.sqrt(0.5 * alpha) * total)
    bulk = np.sqrt(np.pi) * (1.0 + alpha * total**2) * error
    bulk = alpha * np.exp(-0.5 * alpha * difference**2) * bulk
    overlap = (tails + bulk) / np.sqrt(128.0 * alpha**5)
    transform = np.linalg.solve(covariance, np.linalg.cholesky(overlap))
    return _kernels(r, centres, settings) @ transform


def _gto(r: np.ndarray, settings: RadialSettings) -> np.ndarray:
    """`r^l exp(-a r²)` that decay at n equally spaced distances; Himanen et al. (2020), eq. 20."""
    degrees, shift = np.arange(settings.l_max + 1)[:, None], 1.0
    ends = np.linspace(shift, settings.cutoff, settings.n_max)[None, :]
    exponents = -np.log(_DECAY / ends**degrees) / ends**2

    def orbitals(points: np.ndarray) -> np.ndarray:
        powers = points[None, None, :] ** degrees[:, :, None]
        return powers * np.exp(-exponents[:, :, None] * points**2)

    # The slowest orbital times the smeared density of a neighbour at the cutoff has decayed here.
    far = np.sqrt(40.0 / exponents.min()) + 9.0 * settings.atom_sigma
    return _integrated(r, settings, orbitals, float(far))


def _polynomial(r: np.ndarray, settings: RadialSettings) -> np.ndarray:
    """`(r_c - r)^(n + 2)` for n = 1, 2, …, the same for all l; Himanen et al. (2020), eq. 25."""
    exponents = np.arange(settings.n_max)[:, None] + 3

    def powers(points: np.ndarray) -> np.ndarray:
        of_n = (settings.cutoff - points[None, :]) ** exponents
        return np.broadcast_to(of_n, (settings.l_max + 1, *of_n.shape))

    return _integrated(r, settings, powers, settings.cutoff)


def _integrated(
    r: np.ndarray,
    settings: RadialSettings,
    basis: Callable[[np.ndarray], np.ndarray],
    far: float,
) -> np.ndarray:
    """`∫ r'² g_nl w_l dr'` over [0, far] of a basis `[degrees, n, points]`, made orthonormal.

    The basis is made orthonormal symmetrically (Löwdin), as it is: functions in Å, not normalised.
    The result is the orthogonal factor of its polar decomposition at the points of a quadrature.
    """
    nodes, weights = scipy.special.roots_legendre(400)
    points = 0.5 * far * (nodes + 1.0)
    roots = points * np.sqrt(0.5 * far * weights)
    left, sizes, right = np.linalg.svd(basis(points) * roots, full_matrices=False)
    if np.any(sizes[:, -1] < _DEPENDENT * sizes[:, 0]):
        raise UserError(
            f"soap.n_max: got {settings.n_max}; radial functions of the basis {settings.basis!r} "
            "are linearly dependent to rounding. Expected fewer, or the basis gaussian."
        )
    return np.einsum("rlp,lap->rla", _kernels(r, points, settings) * roots, left @ right)


_BASES: dict[str, Callable[[np.ndarray, RadialSettings], np.ndarray]] = {
    "gaussian": _gaussian,
    "gto": _gto,
    "polynomial": _polynomial,
}
