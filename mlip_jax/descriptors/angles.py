"""Sums over pairs of neighbours of a function of their angle, with and without forming the pairs.

Both forms give, for every pair of neighbour elements p = (e ≤ f), every radial weight a and every
angular function z = (λ, ζ), each unordered pair of neighbours once,

    G[p, a, z] = 2^(1-ζ) Σ_(j of e, k of f) w_a(r_ij) w_a(r_ik) [w_a(r_jk)] (1 + λ cos θ_jik)^ζ,

where the factor in brackets belongs to narrow functions; Behler (2011), eqs. 9 and 10.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_EINSUM = functools.partial(jnp.einsum, precision="highest")

AngularShapes = tuple[tuple[float, float], ...]
"""(λ, ζ) of each angular function."""


def element_pairs(num_elements: int) -> tuple[tuple[int, int], ...]:
    """Unordered pairs of element indices (e ≤ f), in the order of the features."""
    return tuple((e, f) for e in range(num_elements) for f in range(e, num_elements))


def harmonics(
    units: Float[Array, "atoms neighbors 3"], degree: int
) -> Float[Array, "atoms harmonics neighbors"]:
    """Real spherical harmonics with `Σ_m Y_lm(a) Y_lm(b) = P_l(a · b)`.

    `Y_lm = N_lm P_l^(m)(z) Re (x + i y)^m`, and Im for negative m, with the m-th derivative of the
    Legendre polynomial expanded in Chebyshev polynomials: two products with constant matrices, no
    angle, and every derivative finite. Rounding grows with l (some 20 ulp at l = 8, 100 at l = 12).

    Args:
        units: unit vectors.
        degree: highest l.

    Returns:
        `(degree + 1)²` functions: for each l, first m = 0 … l, then m = -1 … -l.
    """
    x, y, z = (units[..., i] for i in range(3))
    chebyshev, cosines, sines = [jnp.ones_like(z), z], [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
        chebyshev.append(2.0 * z * chebyshev[-1] - chebyshev[-2])
    polar, azimuthal = (jnp.asarray(m, units.dtype) for m in _harmonic_matrices(degree))
    heights = jnp.stack(chebyshev[: degree + 1], axis=1)
    turns = jnp.stack(cosines + sines[1:], axis=1)
    return jnp.einsum("ipj,ph->ihj", heights, polar, precision="highest") * jnp.einsum(
        "iqj,qh->ihj", turns, azimuthal, precision="highest"
    )


@functools.cache
def _harmonic_matrices(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev coefficients of the polar factors, and which azimuthal factor belongs to each."""
    columns = [(l, m) for l in range(degree + 1) for m in (*range(l + 1), *range(-1, -l - 1, -1))]
    polar = np.zeros((degree + 1, len(columns)))
    azimuthal = np.zeros((2 * degree + 1, len(columns)))
    for column, (l, m) in enumerate(columns):
        order = abs(m)
        ratio = math.factorial(l - order) / math.factorial(l + order)
        derivative = np.polynomial.Legendre.basis(l).deriv(order)
        points = np.polynomial.chebyshev.chebpts1(l - order + 1)
        coefficients = np.polynomial.chebyshev.chebfit(points, derivative(points), l - order)
        norm = math.sqrt((2.0 if order else 1.0) * ratio)
        polar[: len(coefficients), column] = norm * coefficients
        azimuthal[order if m >= 0 else degree + order, column] = 1.0
    return polar, azimuthal


def legendre_coefficients(shapes: AngularShapes, degree: int) -> np.ndarray:
    """Coefficients `[degree + 1, shapes]` of `2^(1-ζ) (1 + λ x)^ζ` in Legendre polynomials of x.

    Args:
        shapes: (λ, ζ), with integer ζ ≤ degree.
        degree: highest l.
    """
    table = np.zeros((degree + 1, len(shapes)))
    for column, (lam, zeta) in enumerate(shapes):
        series = np.polynomial.Polynomial([1.0, lam]) ** int(zeta) * 2.0 ** (1 - int(zeta))
        table[: int(zeta) + 1, column] = np.polynomial.legendre.poly2leg(series.coef)
    return table


def wide_from_moments(
    units: Float[Array, "atoms neighbors 3"],
    weights: Float[Array, "atoms neighbors weights"],
    elements: Float[Array, "atoms neighbors elements"],
    shapes: AngularShapes,
) -> Float[Array, "atoms pairs weights shapes"]:
    """Wide functions of integer ζ from moments of the neighbour density; no pairs are formed.

    With `M_e,a,lm = Σ_(j of e) w_a(r_ij) Y_lm(r_ij)` the sum over all j and k of a polynomial of
    the cosine is `Σ_l c_l Σ_m M_e,a,lm M_f,a,lm`; for e = f the terms j = k are subtracted and the
    rest halved. Cost and memory grow linearly with the number of neighbours.

    Args:
        units: unit vectors to the neighbours.
        weights: w_a(r_ij), zero beyond the cutoff and in padded slots.
        elements: one-hot element of each neighbour; or one column of factors, one for each.
        shapes: (λ, ζ) with integer ζ.
    """
    degree = max(int(zeta) for _, zeta in shapes)
    num_elements = elements.shape[-1]
    table = legendre_coefficients(shapes, degree)
    per_harmonic = jnp.asarray(
        np.repeat(table, 2 * np.arange(degree + 1) + 1, axis=0), weights.dtype
    )
    at_zero_angle = jnp.asarray(table.sum(axis=0), weights.dtype)

    basis = harmonics(units, degree)
    by_element = _by_element(weights, elements)
    moments = jnp.einsum("ihj,ijea->ieah", basis, by_element, precision="highest")
    squares = jnp.einsum(
        "ija,ije->iea", weights * weights, elements * elements, precision="highest"
    )
    sums = []
    for e, f in element_pairs(num_elements):
        products = moments[:, e] * moments[:, f]
        total = jnp.einsum("iah,hz->iaz", products, per_harmonic, precision="highest")
        if e == f:
            total = 0.5 * (total - squares[:, e, :, None] * at_zero_angle[None, None, :])
        sums.append(total)
    return jnp.stack(sums, axis=1)


def from_pairs(
    vectors: Float[Array, "atoms neighbors 3"],
    distances: Float[Array, "atoms neighbors"],
    weights: Float[Array, "atoms weights neighbors"],
    third: Callable[[Array], Array] | None,
    elements: Float[Array, "atoms neighbors elements"],
    shapes: AngularShapes,
    einsum: Callable[..., Array] = _EINSUM,
) -> Float[Array, "atoms pairs weights shapes"]:
    """Narrow functions, and wide ones of any ζ ≥ 1, from all pairs of neighbours.

    Neighbour j meets neighbour j + d, modulo their number k, for d = 1 … k/2: every pair once, and
    with contiguous rows.

    Args:
        vectors: r_ij [Å].
        distances: their lengths [Å], positive.
        weights: w_a(r_ij), zero beyond the cutoff and in padded slots.
        third: `r_jk [atoms, *] -> w_a(r_jk) [atoms, weights, *]`; `None` for wide functions.
        elements: as in `wide_from_moments`.
        shapes: (λ, ζ).
        einsum: how products are summed.
    """
    here, there = meetings(jnp.swapaxes(vectors, 1, 2))
    near, far = meetings(distances)
    cosines = jnp.sum(here * there, axis=1) / (near * far)
    first, second = meetings(weights)
    products = first * second * once(distances.shape[1], weights.dtype)[None, None]
    if any(zeta < 0.0 for _, zeta in shapes):
        # A padded slot may lie where such functions diverge.
        cosines = jnp.where(jnp.any(products != 0.0, axis=1), cosines, 0.0)
    functions = jnp.stack([_power(cosines, lam, zeta) for lam, zeta in shapes], axis=1)
    if third is not None:
        difference = here - there
        squares = jnp.sum(difference * difference, axis=1)
        apart = squares > 0.0
        products = products * third(jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0))
    number = elements.shape[-1]
    mine, other = meetings(jnp.swapaxes(elements, 1, 2))
    chosen = [
        mine[:, e] * other[:, f] + (mine[:, f] * other[:, e] if e != f else 0.0)
        for e, f in element_pairs(number)
    ]
    return jnp.stack(
        [einsum("iadj,izdj->iaz", products * c[:, None], functions) for c in chosen],
        axis=1,
    )


def meetings(
    values: Float[Array, "*batch neighbors"],
) -> tuple[Float[Array, "*batch 1 neighbors"], Float[Array, "*batch turns neighbors"]]:
    """Values of both neighbours of every pair, `[..., d, j]`, of values `[..., neighbors]`.

    By a 0/1 matrix, whose transpose is a product: a CPU spends more on that of rolled copies.
    """
    number = values.shape[-1]
    matrix = jnp.asarray(turns(number), values.dtype)
    other = jnp.matmul(values, matrix, precision="highest")
    other = other.reshape((*values.shape[:-1], number // 2, number))
    return values[..., None, :], other


@functools.cache
def turns(number: int) -> Float[np.ndarray, "neighbors pairs"]:
    """`[neighbors, d * j]`: which neighbour j + d is."""
    turn, start = np.meshgrid(np.arange(1, number // 2 + 1), np.arange(number), indexing="ij")
    return (np.arange(number)[:, None] == ((start + turn) % number).reshape(1, -1)).astype(float)


def once(number: int, dtype) -> Float[Array, "turns 1"]:
    """Factors of the pairs `[d, j]`: where k is even, the last d meets every pair twice."""
    factors = np.ones(number // 2)
    if number % 2 == 0 and number:
        factors[-1] = 0.5
    return jnp.asarray(factors[:, None], dtype)


def _by_element(weights: Array, elements: Array) -> Array:
    return weights[:, :, None, :] * elements[..., None]


def _power(cosines: Array, lam: float, zeta: float) -> Array:
    """`2^(1-ζ) (1 + λ cos)^ζ`, guarded against a base that rounding makes negative."""
    half = 0.5 * (1.0 + lam * cosines)
    if zeta < 0.0:
        return jnp.where(half > 0.0, 2.0 * jnp.where(half > 0.0, half, 1.0) ** int(zeta), 0.0)
    if float(zeta).is_integer():
        return 2.0 * half ** int(zeta)
    tiny = 1e-12
    return jnp.where(half > tiny, 2.0 * jnp.where(half > tiny, half, 1.0) ** zeta, 0.0)
