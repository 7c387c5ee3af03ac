"""Smooth functions of one variable as Chebyshev series: made on the host, summed on the device.

Host and device split the work: a series is computed once, in float64, from a formula that may be
slow or delicate; evaluating it is one matrix product, well conditioned, with smooth derivatives.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Float

NODES = 256
"""Points at which a function is sampled for its series."""

_LOW = 8
"""Polynomials of low degree in `products`."""

_ROUNDING = 1e-15
"""Terms that are smaller, relative to the largest, are rounding in float64."""

_PLATEAU = 8
"""A series ends where as many terms in a row are that small: even functions lack every other."""


def nodes() -> Float[np.ndarray, " nodes"]:
    """Points in (-1, 1), in descending order, at which functions are sampled."""
    return np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)


def series(
    function: Callable[[np.ndarray], np.ndarray], precision: float
) -> Float[np.ndarray, "terms ..."]:
    """Coefficients c of `f(y) = Σ_k c_k T_k(y)` on [-1, 1], as many as the precision needs.

    Args:
        function: of points in [-1, 1] `[points]`; its values are `[points, ...]`, as many series.
        precision: of the sum, relative to the largest value; terms below it are left out.

    Raises:
        ValueError: where the function varies too quickly for `NODES` points.
    """
    values = function(nodes())
    coefficients = np.asarray(scipy.fft.dct(values, type=2, axis=0)) / NODES
    coefficients[0] *= 0.5
    sizes = np.abs(coefficients).reshape(NODES, -1).max(axis=1)
    small = sizes <= max(precision, _ROUNDING) * sizes.max()
    ends = [k for k in range(1, NODES // 2) if np.all(small[k : k + _PLATEAU])]
    if not ends:
        raise ValueError(
            f"chebyshev.series: got a function that {NODES} points do not resolve; expected a "
            "smoother one, or a shorter interval."
        )
    return coefficients[: ends[0]]


def polynomials(
    y: Float[Array, "..."], number: int, weight: Float[Array, "..."]
) -> Float[Array, "terms ..."]:
    """`w T_0(y) … w T_(number - 1)(y)` of y in [-1, 1] and a weight w, terms first.

    The weight enters the seeds of the recurrence, `T_(n + 1) = 2 y T_n - T_(n - 1)`.
    """
    terms = [weight, weight * y]
    while len(terms) < number:
        terms.append(2.0 * y * terms[-1] - terms[-2])
    return jnp.stack(terms[:number])


def products(
    y: Float[Array, "..."], number: int, weight: Float[Array, "..."]
) -> Float[Array, "... terms"]:
    """`w T_a(y) T_(8 b)(y)` at place 8 b + a, terms last: a basis that takes few operations.

    It spans the same polynomials as `polynomials`; `product_coefficients` of a series go with it.
    """
    low = polynomials(y, _LOW, jnp.ones_like(y))
    turning = 2.0 * low[-1] * y - low[-2]  # T_8
    high = polynomials(turning, -(-number // _LOW), weight)
    low, high = jnp.moveaxis(low, 0, -1), jnp.moveaxis(high, 0, -1)
    low, high = jax.lax.optimization_barrier((low, high))
    outer = high[..., :, None] * low[..., None, :]
    return outer.reshape(*y.shape, -1)


def product_coefficients(
    coefficients: Float[np.ndarray, "terms ..."],
) -> Float[np.ndarray, "padded ..."]:
    """Coefficients of a series in the basis of `products`, padded with zeros to a multiple of 8.

    From `T_(8 b + a) = 2 T_a T_(8 b) - T_(8 b - a)`, from the highest term down.
    """
    padding = -len(coefficients) % _LOW
    rest = np.pad(coefficients, [(0, padding)] + [(0, 0)] * (coefficients.ndim - 1))
    result = np.zeros_like(rest)
    for k in reversed(range(len(rest))):
        b, a = divmod(k, _LOW)
        factor = 2.0 if a and b else 1.0
        result[k] = factor * rest[k]
        if a and b:
            rest[_LOW * b - a] -= rest[k]
    return result
