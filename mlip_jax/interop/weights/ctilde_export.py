"""Our functions as those of a `.yace` file: sums `Re Σ_m c̃_m Π A_(μ n l m)` of products."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax.descriptors.ace_functions import Factor, Selection, orders
from mlip_jax.interop.weights import complex_products
from mlip_jax.interop.weights.complex_products import Component

Factors = tuple[tuple[int, int, int], ...]
"""Element (or channel), n and l of each factor."""


class Products(NamedTuple):
    """A function: the real part of a sum of products of complex harmonics.

    Attributes:
        factors: of all products.
        components: m of each factor, for each product.
        coefficients: of each product.
    """

    factors: Factors
    components: list[Component]
    coefficients: Float[np.ndarray, "components densities"]


class Expansion(NamedTuple):
    """Functions, and their coefficients for each central element.

    Attributes:
        selection: the functions of orders above 1.
        coefficients: of each order from 1, the functions of order 1 by (element, n).
        separate: sets of functions, one after the other in each order; in each the sums over
            neighbours are those of one channel.
        weights: of the elements in the sums; `None`: there is a sum for each element.
    """

    selection: Selection
    coefficients: tuple[Float[np.ndarray, "functions elements densities"], ...]
    separate: int = 1
    weights: Float[np.ndarray, "elements channels"] | None = None


def functions(expansion: Expansion, element: int) -> list[str]:
    """Entries of the functions of one central element; those without coefficients are left out."""
    found = _functions(expansion, element)
    if expansion.weights is not None:
        found = _of_elements(found, expansion.weights)
    return [_entry(element, function) for function in found]


def _functions(expansion: Expansion, element: int) -> Iterator[Products]:
    """Functions of the sums over neighbours, of elements or channels."""
    selection, (first, *higher) = expansion.selection, expansion.coefficients
    for place, values in enumerate(first[:, element]):
        if np.any(values):
            channel, n = divmod(place, selection.n_max[0])
            yield Products(((channel, n, 0),), [(0,)], values[None])
    for order, table in zip(orders(selection), higher, strict=True):
        for channel, own in enumerate(np.split(table[:, element], expansion.separate)):
            pieces = itertools.pairwise(order.first.tolist())
            for multiset, (start, end) in zip(order.multisets, pieces, strict=True):
                if np.any(own[start:end]):
                    products = complex_products.of_couplings(multiset, own[start:end])
                    factors = [_factor(factor, selection.num_radial) for factor in multiset]
                    yield Products(tuple((c + channel, n, l) for c, n, l in factors), *products)


def _of_elements(
    found: Iterable[Products], weights: Float[np.ndarray, "elements channels"]
) -> list[Products]:
    """Functions of weighted sums as functions of the sums for each element."""
    table: dict[Factors, dict[Component, np.ndarray]] = {}
    for factors, components, coefficients in found:
        for chosen in itertools.product(range(len(weights)), repeat=len(factors)):
            weight = math.prod(weights[z, c] for z, (c, _, _) in zip(chosen, factors, strict=True))
            own = [(z, n, l) for z, (_, n, l) in zip(chosen, factors, strict=True)]
            places = sorted(range(len(own)), key=lambda i, own=own: own[i])
            key = tuple(own[i] for i in places)
            equal = tuple(key.index(factor) for factor in key)
            sums = table.setdefault(key, {})
            for component, values in zip(components, weight * coefficients, strict=True):
                m = complex_products.representative(equal, [component[i] for i in places])
                sums[m] = sums.get(m, 0.0) + values
    return [
        Products(factors, list(sums), np.array(list(sums.values())))
        for factors, sums in table.items()
    ]


def _factor(factor: Factor, num_radial: int) -> tuple[int, int, int]:
    """Element, n and l."""
    degree, channel = factor
    return (*divmod(channel, num_radial), degree)


def _entry(element: int, function: Products) -> str:
    """A line of YAML, with factors in the order of the files: by element, n, l."""
    factors, components, coefficients = function
    order = sorted(range(len(factors)), key=lambda i: factors[i])
    mus, ns, ls = zip(*(factors[i] for i in order), strict=True)
    ms = [component[i] for component in components for i in order]
    return (
        f"{{mu0: {element}, rank: {len(order)}, ndensity: {coefficients.shape[1]}, "
        f"num_ms_combs: {len(components)}, mus: {list(mus)}, ns: {[n + 1 for n in ns]}, "
        f"ls: {list(ls)}, ms_combs: {ms}, ctildes: {np.ravel(coefficients).tolist()}}}"
    )
