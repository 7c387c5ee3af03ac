"""Real spherical harmonics and Clebsch-Gordan coefficients, as in e3nn.

Components of degree l run over m = -l..l with z as the axis, so that those of l = 1 are (y, z, x);
e3nn writes the same functions with y as the axis, a rotation that no invariant sees. Harmonics have
component normalisation: the squares of the 2l + 1 components sum to 2l + 1.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def spherical_harmonics(
    directions: Float[Array, "*edges 3"], l_max: int
) -> tuple[Float[Array, "*edges _"], ...]:
    """Harmonics of degrees 0 to `l_max` of unit vectors, each `[*edges, 2l + 1]`.

    Every component is a homogeneous polynomial of the vector, so that all derivatives are finite
    and a zero vector gives zero for l > 0.

    Args:
        directions: unit vectors (x, y, z), or zero.
        l_max: highest degree.
    """
    x, y, z = (directions[..., i] for i in range(3))
    components = harmonic_components(x, y, z, l_max)
    return tuple(jnp.stack(of_degree, axis=-1) for of_degree in components)


def stacked_harmonics(
    directions: Float[Array, "*edges 3"], l_max: int
) -> Float[Array, " components *edges"]:
    """Harmonics of degrees 0 to `l_max` of unit vectors, one component after the other.

    The same functions as those of `spherical_harmonics`, as products of polynomials of z and of
    x + iy, each from one product with a constant matrix: for sums over many neighbours, where
    writing the components one by one takes most of the time. Where a vector is not of unit length
    the values are without meaning.
    """
    x, y, z = (directions[..., i] for i in range(3))
    heights = [jnp.ones_like(z), z]
    for _ in range(l_max - 1):
        heights.append(2.0 * z * heights[-1] - heights[-2])
    even, odd = powers(x, y, l_max)
    polar, turns = (jnp.asarray(m, directions.dtype) for m in _harmonic_matrices(l_max))
    product = functools.partial(jnp.tensordot, axes=1, precision="highest")
    azimuthal = product(turns[:, : l_max + 1], even) + product(turns[:, l_max + 1 :], odd)
    return product(polar, jnp.stack(heights[: l_max + 1])) * azimuthal


def powers(
    x: Float[Array, "*points"], y: Float[Array, "*points"], highest: int
) -> tuple[Float[Array, " _ *points"], Float[Array, " _ *points"]]:
    """Real and imaginary part of `(x + iy)^k` for k = 0 … `highest`."""
    even, odd = [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(highest):
        a, b = even[-1], odd[-1]
        even.append(x * a - y * b)
        odd.append(x * b + y * a)
    return jnp.stack(even), jnp.stack(odd)


@functools.cache
def _harmonic_matrices(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev series in z of each component, and the power of x + iy that belongs to it."""
    z = np.polynomial.chebyshev.chebpts1(l_max + 1)
    columns = [(l, m) for l in range(l_max + 1) for m in range(-l, l + 1)]
    polar = np.zeros((len(columns), l_max + 1))
    turns = np.zeros((len(columns), 2 * l_max + 2))
    for row, (degree, m) in enumerate(columns):
        order = abs(m)
        values = _legendre_derivatives(z, np.ones_like(z), order, l_max)[degree - order]
        values = _component_norm(degree, order) * values * np.ones_like(z)
        series = np.polynomial.chebyshev.chebfit(z, values, l_max)
        # Of one parity, and of degree l - m.
        terms = np.arange(degree - order, -1, -2)
        polar[row, terms] = series[terms]
        turns[row, order if m >= 0 else l_max + 1 + order] = 1.0
    return polar, turns


def harmonic_components(x: Any, y: Any, z: Any, l_max: int) -> list[list[Any]]:
    """Components of degrees 0 to `l_max` of unit vectors (x, y, z), as numpy or JAX arrays."""
    square = x * x + y * y + z * z
    # Real and imaginary part of (x + iy)^m; they go with m and -m.
    even, odd = [x * 0.0 + 1.0], [x * 0.0]
    for _ in range(l_max):
        even, odd = (
            [*even, x * even[-1] - y * odd[-1]],
            [*odd, x * odd[-1] + y * even[-1]],
        )
    polynomials = [_legendre_derivatives(z, square, m, l_max) for m in range(l_max + 1)]
    degrees = []
    for degree in range(l_max + 1):
        components = []
        for m in range(-degree, degree + 1):
            order = abs(m)
            scale, polynomial = _component_norm(degree, order), polynomials[order][degree - order]
            components.append(scale * polynomial * (odd if m < 0 else even)[order])
        degrees.append(components)
    return degrees


def _legendre_derivatives(z: Any, square: Any, order: int, l_max: int) -> list[Any]:
    """`r^(l-m) d^m P_l(z / r) / dz^m` for l = m … `l_max`, with `square` = r²; DLMF 14.10.3."""
    values: list[Any] = [float(math.prod(range(2 * order - 1, 0, -2)))]
    if order < l_max:
        values.append((2 * order + 1) * values[0] * z)
    for l in range(order + 2, l_max + 1):
        upper, lower = (2 * l - 1) / (l - order), (l + order - 1) / (l - order)
        values.append(upper * z * values[-1] - lower * square * values[-2])
    return values


def _component_norm(degree: int, order: int) -> float:
    """Scale by which the squares of the components of a degree sum to 2l + 1."""
    ratio = math.factorial(degree - order) / math.factorial(degree + order)
    return math.sqrt((2 * degree + 1) * (1 if order == 0 else 2) * ratio)


@functools.cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> Float[np.ndarray, "m1 m2 m3"]:
    """Real invariant tensor of three degrees, with unit norm (e3nn's `wigner_3j`).

    The complex coefficients by Racah's formula (Varshalovich et al. 1988, section 8.2.1, eq. 3),
    taken to the real basis, where they are real because of the phase `(-i)^l` of `_real_basis`.

    Raises:
        ValueError: where |l1 - l2| <= l3 <= l1 + l2 does not hold.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"clebsch_gordan: the degrees {l1}, {l2}, {l3} make no triangle.")
    table = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            table[l1 + m1, l2 + m2, l3 + m1 + m2] = _complex_coefficient(l1, m1, l2, m2, l3)
    bases = (_real_basis(l1), _real_basis(l2), _real_basis(l3).conj())
    real = np.einsum("ijk,ia,jb,kc->abc", table, *bases).real
    real = real / np.linalg.norm(real)
    real.flags.writeable = False
    return real


def _complex_coefficient(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Clebsch-Gordan coefficient <l1 m1 l2 m2 | l3 m1+m2>, up to a factor that m leaves alone."""
    m3 = m1 + m2
    f = math.factorial
    root = f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = 0.0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        total += (-1) ** k / (
            f(k)
            * f(l1 + l2 - l3 - k)
            * f(l1 - m1 - k)
            * f(l2 + m2 - k)
            * f(l3 - l2 + m1 + k)
            * f(l3 - l1 - m2 + k)
        )
    return math.sqrt(root) * total


def _real_basis(degree: int) -> np.ndarray:
    """Columns: the real components of a degree in the complex basis |m>."""
    basis = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    half = 1.0 / math.sqrt(2.0)
    basis[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1.0) ** m
        basis[degree + m, degree + m] = sign * half
        basis[degree - m, degree + m] = half
        basis[degree + m, degree - m] = 1j * sign * half
        basis[degree - m, degree - m] = -1j * half
    return (-1j) ** degree * basis
