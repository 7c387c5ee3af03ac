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

_ORDERS = 3
"""Orders λ whose sums are one product: more would waste operations, fewer would be tiny."""


def radial_factors(
    cosine: Float[Array, "*points"], sine: Float[Array, "*points"], degree: int
) -> Float[Array, " factors *points"]:
    """`sin^λ θ C_(n-λ)^(λ+1)(cos θ)`, scaled, for λ = 0 … `degree`, each with n = λ … `degree`.

    With the spherical harmonics of `angular` they make the harmonics. They are polynomials of
    degree n in cos θ and sin θ: series in cos kθ and sin kθ, one product with a constant matrix.

    Args:
        cosine: cos θ.
        sine: sin θ.
        degree: highest n.
    """
    even, odd = angular.powers(cosine, sine, degree)
    cosines, sines = (jnp.asarray(m, cosine.dtype) for m in _trigonometric_series(degree))
    product = functools.partial(jnp.tensordot, axes=1, precision="highest")
    return product(cosines, even) + product(sines, odd)


def sums(
    strengths: Float[Array, "atoms points"],
    radial: Float[Array, "factors atoms points"],
    spherical: Float[Array, "components atoms points"],
    degree: int,
) -> tuple[Float[Array, "atoms _"], ...]:
    """Sums over weighted points of the harmonics of each degree n = 0 … `degree`.

    Args:
        strengths: weights of the points.
        radial: of `radial_factors`.
        spherical: of `angular.stacked_harmonics`.
        degree: highest n.
    """
    weighted = strengths[None] * radial
    by_order: list[Array] = []
    for first in range(0, degree + 1, _ORDERS):
        orders = range(first, min(first + _ORDERS, degree + 1))
        rows = slice(_first_factor(degree, first), _first_factor(degree, orders.stop))
        columns = slice(first**2, orders.stop**2)
        table = jnp.einsum("pij,qij->ipq", weighted[rows], spherical[columns])
        for order in orders:
            top = _first_factor(degree, order) - rows.start
            left = order**2 - first**2
            own = table[:, top : top + degree + 1 - order, left : left + 2 * order + 1]
            by_order.append(own)
    return tuple(
        jnp.concatenate([by_order[order][:, n - order] for order in range(n + 1)], axis=-1)
        for n in range(degree + 1)
    )


@functools.cache
def factors_of_harmonics(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Radial and spherical factor of each harmonic of degrees 0 … `degree`, as indices."""
    places = [
        (_first_factor(degree, order) + n - order, order**2 + component)
        for n in range(degree + 1)
        for order in range(n + 1)
        for component in range(2 * order + 1)
    ]
    return tuple(np.array(places).T)


def _first_factor(degree: int, order: int) -> int:
    """Place of the first factor of λ = `order` among those of `radial_factors`."""
    return order * (degree + 1) - order * (order - 1) // 2


@functools.cache
def _trigonometric_series(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients `[factors, degree + 1]` of cos kθ and sin kθ."""
    angles = 2.0 * np.pi * np.arange(2 * degree + 2) / (2 * degree + 2)
    k = np.arange(degree + 1)
    rows, parities = [], []
    for order in range(degree + 1):
        polynomials = _gegenbauer(np.cos(angles), order + 1, degree - order)
        for n, polynomial in zip(range(order, degree + 1), polynomials, strict=True):
            rows.append(_scale(n, order) * np.sin(angles) ** order * polynomial)
            parities.append((n, order % 2))
    norm = np.where(k == 0, 1.0, 2.0) / len(angles)
    cosines, sines = (np.array(rows) @ f(np.outer(angles, k)) * norm for f in (np.cos, np.sin))
    for row, (n, is_sine) in enumerate(parities):
        allowed = (k <= n) & (k % 2 == n % 2)
        cosines[row] *= allowed & (not is_sine)
        sines[row] *= allowed & bool(is_sine)
    return cosines, sines


@functools.cache
def quadrature(
    degree: int,
) -> tuple[Float[np.ndarray, "steps points 4"], Float[np.ndarray, " points"]]:
    """Points and weights on half of S³ that integrate even polynomials exactly.

    The points of every step have the same weights, which sum to 1 over all steps.

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
    return np.stack(points, axis=-1), areas / areas.sum() / (highest + 1)


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
