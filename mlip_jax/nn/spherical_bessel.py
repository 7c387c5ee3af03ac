"""Spherical Bessel functions that vanish at a cutoff, as radial functions of several degrees."""

import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Array, Float

from mlip_jax.nn import chebyshev


def spherical_bessel(
    distances: Float[Array, "*edges"], max_n: int, max_l: int, cutoff: float
) -> Float[Array, "*edges basis"]:
    """`sqrt(2 / c³) j_l(z_ln r / c) / |j_(l+1)(z_ln)|`, degree after degree, zero beyond c.

    z_ln is the n-th positive zero of j_l; the functions of one degree are orthonormal in the
    sphere. Their slopes at the cutoff are not zero. Gasteiger et al. (2020), eq. 5. They are
    Chebyshev series of r, so that derivatives are finite at r = 0 and nothing cancels near it.

    Args:
        distances: Å.
        max_n: functions of each degree.
        max_l: number of degrees, l = 0 … `max_l` - 1.
        cutoff: c, Å.
    """
    inside = distances < cutoff
    series = _series(max_n, max_l) * math.sqrt(2.0 / cutoff**3)
    y = jnp.where(inside, distances * (2.0 / cutoff), 2.0) - 1.0
    terms = chebyshev.polynomials(y, len(series), inside.astype(distances.dtype))
    return jnp.einsum("k...,kb->...b", terms, jnp.asarray(series, distances.dtype))


def zeros(max_n: int, max_l: int) -> Float[np.ndarray, "max_l max_n"]:
    """Positive zeros of degrees 0 to `max_l` - 1; those of neighbouring degrees interlace."""
    found = [np.pi * np.arange(1, max_n + max_l)]
    for degree in range(1, max_l):
        function = functools.partial(scipy.special.spherical_jn, degree)
        brackets = itertools.pairwise(found[-1])
        found.append(np.array([scipy.optimize.brentq(function, *b, xtol=1e-14) for b in brackets]))
    return np.stack([of_degree[:max_n] for of_degree in found])


@functools.cache
def _series(max_n: int, max_l: int) -> Float[np.ndarray, "terms basis"]:
    """Series of `j_l(z_ln x) / |j_(l+1)(z_ln)|` in 2 x - 1."""
    at, degrees = zeros(max_n, max_l), np.arange(max_l)[:, None]
    norms = 1.0 / np.abs(scipy.special.spherical_jn(degrees + 1, at))

    def functions(y: np.ndarray) -> np.ndarray:
        x = 0.5 * (y + 1.0)[:, None, None]
        return (scipy.special.spherical_jn(degrees, at * x) * norms).reshape(len(y), -1)

    return chebyshev.series(functions, 0.0)
