"""Sums of products of complex harmonics in terms of our couplings of real ones.

Complex harmonics as in quantum mechanics, `Y_(l m) = (-1)^m (Y^c + i Y^s) / √2` for m > 0 and
`Y_(l -m) = (-1)^m Y*_(l m)`; here the real Y^c and Y^s go with m and -m, and of a product the real
part counts. Lysogorskiy et al. (2021), eq. 14 to 16.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mlip_jax.descriptors.ace_functions import Factor, terms

Component = tuple[int, ...]

_ZERO = 1e-12
"""Coefficients are sums of roots of rational numbers; what is less is rounding."""


def in_couplings(
    multiset: tuple[Factor, ...],
    components: Sequence[Component],
    coefficients: Float[np.ndarray, "components densities"],
) -> tuple[Float[np.ndarray, "paths densities"], float]:
    """Coefficients in our couplings of `Re Σ_m c_m Π Y_(l m)`, and the largest one left over.

    Args:
        multiset: sorted factors.
        components: m of each factor, for every product.
        coefficients: c of every product, for each of several sums.
    """
    degrees, equal = _kind(multiset)
    places, table, inverse = _couplings(degrees, equal)
    zero = np.zeros(coefficients.shape[1])
    found: dict[Component, np.ndarray] = {}
    for component, values in zip(components, coefficients, strict=True):
        for real, weight in _real_products(component, degrees, equal):
            found[real] = found.get(real, zero) + weight * values
    known = np.array([found.pop(place, zero) for place in places]).reshape(-1, len(zero))
    ours = inverse @ known
    rest = np.concatenate([np.ravel(table.T @ ours - known), *found.values()])
    return ours, float(np.abs(rest).max(initial=0.0))


def of_couplings(
    multiset: tuple[Factor, ...], coefficients: Float[np.ndarray, "paths densities"]
) -> tuple[list[Component], Float[np.ndarray, "components densities"]]:
    """Products of complex harmonics of which our couplings are the real part: see `in_couplings`.

    Of a product and its complex conjugate, which has all m reversed, only one is left.

    Args:
        multiset: sorted factors.
        coefficients: of our couplings, for each of several sums.
    """
    components, table = _complex_products(*_kind(multiset))
    return components, table @ coefficients


def representative(equal: tuple[int, ...], component: Sequence[int]) -> Component:
    """One of the products that have the same real part, with m of equal factors in order.

    Args:
        equal: a label of each factor, the place of the first that is equal to it; equal factors are
            neighbours.
        component: m of each factor.
    """
    return max(_ordered(equal, component), _ordered(equal, [-m for m in component]))


def _kind(multiset: tuple[Factor, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Degrees of the factors, and which of them are equal."""
    return tuple(l for l, _ in multiset), tuple(multiset.index(factor) for factor in multiset)


@functools.cache
def _couplings(
    degrees: tuple[int, ...], equal: tuple[int, ...]
) -> tuple[list[Component], np.ndarray, np.ndarray]:
    """Products of our couplings, the couplings, and the inverse from products to couplings."""
    components, table = terms(degrees, equal)
    return [tuple(row) for row in components.tolist()], table, np.linalg.pinv(table.T)


@functools.cache
def _real_products(
    component: Component, degrees: tuple[int, ...], equal: tuple[int, ...]
) -> list[tuple[Component, float]]:
    """The real part of a product as products of real harmonics (`l + m` each), with weights."""
    choices = []
    for m, l in zip(component, degrees, strict=True):
        if m == 0:
            choices.append([(l, 1.0)])
        else:
            half = (-1.0 if m > 0 and m % 2 else 1.0) / math.sqrt(2.0)
            choices.append([(l + abs(m), half), (l - abs(m), half * (1j if m > 0 else -1j))])
    result: dict[Component, float] = {}
    for chosen in itertools.product(*choices):
        weight = math.prod(complex(w) for _, w in chosen).real
        if weight:
            key = _ordered(equal, [place for place, _ in chosen])
            result[key] = result.get(key, 0.0) + weight
    return list(result.items())


@functools.cache
def _complex_products(
    degrees: tuple[int, ...], equal: tuple[int, ...]
) -> tuple[list[Component], Float[np.ndarray, "components paths"]]:
    """Products of complex harmonics, and their coefficients in each of our couplings.

    These are real, as the sum of the degrees is even: reflections leave the couplings as they are.
    """
    found: dict[Component, np.ndarray] = {}
    components, table = terms(degrees, equal)
    for places, values in zip(components.tolist(), table.T, strict=True):
        choices = [_of_real(place - l) for place, l in zip(places, degrees, strict=True)]
        for chosen in itertools.product(*choices):
            weight = math.prod(w for _, w in chosen)
            key = representative(equal, [m for m, _ in chosen])
            found[key] = found.get(key, 0.0) + weight * values
    kept = {key: np.real(v) for key, v in found.items() if np.abs(v).max(initial=0.0) > _ZERO}
    ordered = sorted(kept)
    return ordered, np.array([kept[key] for key in ordered]).reshape(len(ordered), len(table))


def _of_real(m: int) -> list[tuple[int, complex]]:
    """A real harmonic as complex ones: their m, and weights."""
    if m == 0:
        return [(0, complex(1.0))]
    sign = -1.0 if m % 2 else 1.0
    half = complex(1.0 if m > 0 else -1j) / math.sqrt(2.0)
    return [(abs(m), sign * half), (-abs(m), half if m > 0 else -half)]


def _ordered(equal: tuple[int, ...], values: Sequence[int]) -> Component:
    """Values of equal factors, which are neighbours, in increasing order."""
    return tuple(value for _, value in sorted(zip(equal, values, strict=True)))
