"""Harmonics and integrals on the unit sphere of four dimensions, S³.

A point is `(cos θ, sin θ n)` with a unit vector n. The harmonics of degree n are products
`sin^λ θ C_(n-λ)^(λ+1)(cos θ) Y_λμ(n)` with λ = 0 … n, μ = -λ … λ, where C are Gegenbauer
polynomials: (n + 1)² of them. They are scaled such that the sum over λ and μ of the harmonics at
two points is the zonal function `U_n(cos ω)`, the Chebyshev polynomial of the second kind of the
cosine of their angle: Avery, "Hyperspherical Harmonics" (1989), eq. 3-27 and 3-68.

Components of one degree are ordered by λ, then μ.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.nn import angular


def radial_factors(
    cosine: Float[Array, "*points"], sine: Float[Array, "*points"], degree: int
) -> tuple[Float[Array, "*points _"], ...]:
    """`sin^λ θ C_(n-λ)^(λ+1)(cos θ)`, scaled, for λ = 0 … `degree`; each with n = λ … `degree`.

    With the spherical harmonics of `angular` they make the harmonics.

    Args:
        cosine: cos θ.
        sine: sin θ.
        degree: highest n.
    """
    factors = []
    power = jnp.ones_like(sine)
    for order in range(degree + 1):
        polynomials = _gegenbauer(cosine, order + 1, degree - order)
        scales = [_scale(n, order) for n in range(order, degree + 1)]
        values = [s * power * c for s, c in zip(scales, polynomials, strict=True)]
        factors.append(jnp.stack(values, axis=-1))
        power = power * sine
    return tuple(factors)


@functools.cache
def quadrature(degree: int) -> tuple[Float[np.ndarray, "points 4"], Float[np.ndarray, " points"]]:
    """Points and weights on half of S³ that integrate even polynomials exactly; weights sum to 1.

    An even polynomial of degree d is a function of rotations with Wigner matrices of degree
    l <= d / 2, since q and -q are one rotation. Equidistant angles γ leave of `D^l_mm'(α, β, γ)`
    those with m' = 0, which are spherical harmonics of (β, α): a Lebedev rule (Lebedev & Laikov,
    Dokl. Math. 59, 477, 1999) integrates them. Gräf & Potts, Numer. Funct. Anal. Optim. 30, 665
    (2009), section 3.

    Args:
        degree: highest degree of the polynomials.

    Raises:
        ValueError: for a degree beyond 263.
    """
    from scipy.integrate import lebedev_rule

    orders = [*range(3, 33, 2), *range(35, 132, 6)]
    highest = degree // 2
    if highest > orders[-1]:
        raise ValueError(f"quadrature: got degree {degree}; expected at most {2 * orders[-1] + 1}.")
    (x, y, z), areas = lebedev_rule(next(order for order in orders if order >= highest))
    # Half a step keeps the points off the pole.
    gamma = 2.0 * math.pi / (highest + 1) * (np.arange(highest + 1)[:, None] + 0.5)
    alpha, half = np.arctan2(y, x), 0.5 * np.arccos(np.clip(z, -1.0, 1.0))
    total, difference = 0.5 * (alpha + gamma), 0.5 * (alpha - gamma)
    points = [
        np.cos(half) * np.cos(total),
        np.sin(half) * np.cos(difference),
        np.sin(half) * np.sin(difference),
        np.cos(half) * np.sin(total),
    ]
    weights = np.broadcast_to(areas / areas.sum() / (highest + 1), total.shape)
    return np.stack(points, axis=-1).reshape(-1, 4), weights.reshape(-1)


def harmonics(
    points: Float[np.ndarray, "points 4"], degree: int
) -> tuple[Float[np.ndarray, "components points"], ...]:
    """Harmonics of degrees 0 … `degree` at fixed points other than the poles, on the host."""
    sine = np.linalg.norm(points[:, 1:], axis=1)
    x, y, z = (points[:, 1:] / sine[:, None]).T
    spherical = angular.harmonic_components(x, y, z, degree)
    rows: list[list[np.ndarray]] = [[] for _ in range(degree + 1)]
    for order in range(degree + 1):
        polynomials = _gegenbauer(points[:, 0], order + 1, degree - order)
        for n, polynomial in zip(range(order, degree + 1), polynomials, strict=True):
            rows[n].append(_scale(n, order) * sine**order * polynomial * np.stack(spherical[order]))
    return tuple(np.concatenate(components) for components in rows)


def _gegenbauer(x: Any, alpha: int, degree: int) -> list[Any]:
    """`C_k^alpha(x)` for k = 0 … `degree`; Abramowitz & Stegun (1964), 22.7.3."""
    values = [x * 0.0 + 1.0, 2.0 * alpha * x]
    for k in range(2, degree + 1):
        upper, lower = 2.0 * (k + alpha - 1) / k, (k + 2.0 * alpha - 2) / k
        values.append(upper * x * values[-1] - lower * values[-2])
    return values[: degree + 1]


def _scale(n: int, order: int) -> float:
    """Square root of what the addition theorem puts before a product of two harmonics."""
    f = math.factorial
    ratio = 4**order * f(order) ** 2 * f(n - order) / f(n + order + 1)
    return math.sqrt(ratio)
