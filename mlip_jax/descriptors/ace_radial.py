"""Radial functions of the atomic cluster expansion, one set for each pair of elements.

Chebyshev polynomials of a scaled distance (Drautz 2019, eq. 24; Bochkarev et al. 2022, section
III), simplified spherical Bessel functions (Kocer et al. 2020, eq. 6 to 11), and a core repulsion.
Formulae take arrays of numpy or JAX, complex ones too.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Array, Float

RadialName = Literal["cheb_exp_cos", "cheb_pow", "cheb_linear", "bessel"]

SHORTEST = 1e-3
"""Distance [Å] below which functions keep the value they have there; atoms never come so close."""

_COMPLEX_STEP = 1e-100
_CORE_RANGE = 50.0
"""The repulsion `exp(-λ r²)` is zero where λ r² exceeds this."""


@dataclasses.dataclass(frozen=True)
class Bond:
    """Radial functions of a central and a neighbouring element.

    Attributes:
        radial: the basis.
        cutoff: c, Å.
        parameter: λ of the scaled distance; without meaning for Bessel functions.
        width: Å before the cutoff in which a further cosine goes to zero (`cheb_exp_cos`).
        core: prefactor [eV Å] and λ [1/Å²] of the repulsion `C exp(-λ r²) / r`.
        inner: distance [Å] where the repulsion has gone and the width [Å] of the range before it
            in which it gives way to the other functions; `None`: there is no such range.
    """

    radial: RadialName = "bessel"
    cutoff: Annotated[float, Gt(0)] = 5.0
    parameter: float = 5.25
    width: Annotated[float, Ge(0)] = 0.0
    core: tuple[float, float] = (0.0, 1.0)
    inner: tuple[float, float] | None = None


def radial_functions(
    r: Float[Array, "*pairs"], bond: Bond, number: int, spline: float | None = None
) -> Float[Array, "*pairs {number}"]:
    """Basis g_1 … g_number at distances r [Å]; zero from the cutoff on.

    Args:
        r: Å.
        bond: the basis and its parameters.
        number: of functions.
        spline: width [Å] of the bins of a table, see `tabulated`; `None`: analytic.
    """
    inside = r < bond.cutoff
    r = jnp.where(inside, jnp.maximum(r, SHORTEST), 0.5 * bond.cutoff)
    if spline is None:
        values = jnp.stack(_analytic(r, bond, number), axis=-1)
    else:
        table = _table(functools.partial(_analytic, bond=bond, number=number), bond.cutoff, spline)
        values = tabulated(r, table, bond.cutoff)
    return jnp.where(inside[..., None], values, 0.0)


def core_repulsion(
    r: Float[Array, "*pairs"], bond: Bond, spline: float | None = None
) -> Float[Array, "*pairs"]:
    """Repulsion `C exp(-λ r²) / r` [eV] that falls to zero at the cutoff; see `radial_functions`.

    Bochkarev et al. (2022), eq. 31.
    """
    inside = r < bond.cutoff
    if bond.core[0] == 0.0:
        return jnp.zeros_like(r)
    r = jnp.where(inside, jnp.maximum(r, SHORTEST), 0.5 * bond.cutoff)
    if spline is None:
        return jnp.where(inside, _core(r, bond), 0.0)
    table = _table(lambda x: [_core(x, bond)], bond.cutoff, spline)
    return jnp.where(inside, tabulated(r, table, bond.cutoff)[..., 0], 0.0)


def tabulated(
    r: Float[Array, "*pairs"], table: Float[np.ndarray, "knots 2 functions"], cutoff: float
) -> Float[Array, "*pairs functions"]:
    """Cubic Hermite interpolation of values and slopes at equidistant knots from 0 to the cutoff.

    Below the first knot but one the polynomial of the bin after it goes on.
    """
    bins = len(table) - 1
    x = r * (bins / cutoff)
    left = jnp.clip(jnp.floor(x), 1, bins - 1).astype(jnp.int32)
    t = (x - left)[..., None]
    known = jnp.asarray(_polynomials(table), r.dtype)[left]
    c0, c1, c2, c3 = (known[..., i, :] for i in range(4))
    return c0 + t * (c1 + t * (c2 + t * c3))


def smooth_step(x: Any, end: float, width: float, xp: ModuleType = jnp) -> Any:
    """Falls from 1 at `end - width` to 0 at `end`, twice continuously differentiable."""
    t = (end - x) / width
    above, below = t.real <= 0.0, t.real >= 1.0
    t = xp.where(above | below, 0.0, t)
    return xp.where(below, 1.0, t * t * t * (10.0 + t * (6.0 * t - 15.0)))


def _analytic(r: Any, bond: Bond, number: int) -> list[Any]:
    """The basis at distances below the cutoff."""
    xp = _namespace(r)
    functions = _BASES[bond.radial](r, bond, number, xp)
    if bond.inner is None:
        return functions
    outside = 1.0 - smooth_step(r, *bond.inner, xp)
    return [outside * function for function in functions]


def _cheb_exp_cos(r: Any, bond: Bond, number: int, xp: ModuleType) -> list[Any]:
    """Chebyshev polynomials in `exp(-λ r / c)` times `(1 + cos(π r / c)) / 2`."""
    least = math.exp(-bond.parameter)
    x = 1.0 - 2.0 * (xp.exp(r * (-bond.parameter / bond.cutoff)) - least) / (1.0 - least)
    envelope = 0.5 * (1.0 + xp.cos(r * (math.pi / bond.cutoff)))
    if bond.width > 0.0:
        start = bond.cutoff - bond.width
        last = 0.5 * (1.0 + xp.cos((r - start) * (math.pi / bond.width)))
        envelope = envelope * xp.where(r.real > start, last, 1.0)
    polynomials = _chebyshev(x, number)[1:number]
    return [envelope, *(0.5 * (1.0 - t) * envelope for t in polynomials)][:number]


def _cheb_pow(r: Any, bond: Bond, number: int, xp: ModuleType) -> list[Any]:
    """`(1 - T_n(x)) / 2` of `x = 1 - 2 (1 - r / c)^λ`, n from 1."""
    power = int(bond.parameter) if float(bond.parameter).is_integer() else bond.parameter
    x = 1.0 - 2.0 * (1.0 - r / bond.cutoff) ** power
    return [0.5 * (1.0 - t) for t in _chebyshev(x, number)[1:]]


def _cheb_linear(r: Any, bond: Bond, number: int, xp: ModuleType) -> list[Any]:
    """`(1 - T_n(x)) / 2` of `x = 1 - r / c`, n from 1; they do not vanish at the cutoff."""
    return [0.5 * (1.0 - t) for t in _chebyshev(1.0 - r / bond.cutoff, number)[1:]]


def _bessel(r: Any, bond: Bond, number: int, xp: ModuleType) -> list[Any]:
    """Orthonormal combinations of pairs of Bessel functions, zero to second order at the cutoff."""
    x = r / bond.cutoff
    scale = math.sqrt(2.0) * math.pi / bond.cutoff**1.5
    sincs = [xp.sinc(x * n) for n in range(1, number + 2)]
    functions: list[Any] = []
    previous = 1.0
    for n in range(number):
        size = (-1) ** n * scale * (n + 1) * (n + 2) / math.hypot(n + 1, n + 2)
        function = size * (sincs[n] + sincs[n + 1])
        overlap = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
        norm = 1.0 - overlap / previous
        if n:
            function = (function + math.sqrt(overlap / previous) * functions[-1]) / math.sqrt(norm)
        functions.append(function)
        previous = norm
    return functions


_BASES: dict[str, Callable[[Any, Bond, int, ModuleType], list[Any]]] = {
    "cheb_exp_cos": _cheb_exp_cos,
    "cheb_pow": _cheb_pow,
    "cheb_linear": _cheb_linear,
    "bessel": _bessel,
}


def _chebyshev(x: Any, degree: int) -> list[Any]:
    """T_0 … T_degree."""
    values = [x * 0.0 + 1.0, x]
    for _ in range(degree - 1):
        values.append(2.0 * x * values[-1] - values[-2])
    return values[: degree + 1]


def _core(r: Any, bond: Bond) -> Any:
    xp = _namespace(r)
    prefactor, decay = (abs(value) for value in bond.core)
    exponent = decay * r * r
    gone = exponent.real >= _CORE_RANGE
    value = prefactor * xp.exp(-xp.where(gone, 0.0, exponent)) / r
    value = value * 0.5 * (1.0 + xp.cos(r * (math.pi / bond.cutoff)))
    if bond.inner is not None:
        value = value * smooth_step(r, *bond.inner, xp)
    return xp.where(gone, 0.0, value)


def _table(
    functions: Callable[[Any], list[Any]], cutoff: float, width: float
) -> Float[np.ndarray, "knots 2 functions"]:
    """Values and slopes, times the bin, at knots from 0 (not used) to the cutoff (zero).

    Slopes are derivatives by a complex step, exact to rounding (Squire & Trapp 1998, eq. 6).
    """
    bins = int(cutoff / width)
    step = cutoff / bins
    r = step * np.arange(1, bins)
    values = np.stack(functions(r + 1j * _COMPLEX_STEP), axis=-1)
    table = np.zeros((bins + 1, 2, values.shape[-1]))
    table[1:-1, 0] = np.real(values)
    table[1:-1, 1] = np.imag(values) * (step / _COMPLEX_STEP)
    return table


def _polynomials(table: np.ndarray) -> Float[np.ndarray, "bins 4 functions"]:
    """Coefficients of the cubic of each bin, in powers of the share of the bin."""
    (left, left_slope), (right, right_slope) = (t.swapaxes(0, 1) for t in (table[:-1], table[1:]))
    rise = right - left
    square = 3.0 * rise - right_slope - 2.0 * left_slope
    cube = right_slope + left_slope - 2.0 * rise
    return np.stack([left, left_slope, square, cube], axis=1)


def _namespace(r: Any) -> ModuleType:
    return np if isinstance(r, np.ndarray) else jnp
