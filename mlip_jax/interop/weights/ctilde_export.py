"""Our functions as those of a `.yace` file: sums `Re Σ_m c̃_m Π A_(μ n l m)` of products."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax.descriptors.ace_functions import Factor, Selection, orders
from mlip_jax.interop.weights import complex_products
from mlip_jax.interop.weights.complex_products import Component


class Expansion(NamedTuple):
    """Functions, and their coefficients for each central element.

    Attributes:
        selection: the functions of orders above 1.
        coefficients: of each order from 1, the functions of order 1 by (element, n).
    """

    selection: Selection
    coefficients: tuple[Float[np.ndarray, "functions elements densities"], ...]


def functions(expansion: Expansion, element: int) -> list[str]:
    """Entries of the functions of one central element; those without coefficients are left out."""
    selection, (first, *higher) = expansion.selection, expansion.coefficients
    entries = []
    for place, values in enumerate(first[:, element]):
        if np.any(values):
            mu, n = divmod(place, selection.n_max[0])
            entries.append(_entry(element, ((mu, n, 0),), [(0,)], values[None]))
    for order, table in zip(orders(selection), higher, strict=True):
        pieces = itertools.pairwise(order.first.tolist())
        for multiset, (start, end) in zip(order.multisets, pieces, strict=True):
            values = table[start:end, element]
            if np.any(values):
                components, products = complex_products.of_couplings(multiset, values)
                factors = tuple(_factor(factor, selection.num_radial) for factor in multiset)
                entries.append(_entry(element, factors, components, products))
    return entries


def _factor(factor: Factor, num_radial: int) -> tuple[int, int, int]:
    """Element, n and l."""
    degree, channel = factor
    return (*divmod(channel, num_radial), degree)


def _entry(
    element: int,
    factors: tuple[tuple[int, int, int], ...],
    components: list[Component],
    coefficients: Float[np.ndarray, "components densities"],
) -> str:
    """A line of YAML, with factors in the order of the files: by element, n, l."""
    order = sorted(range(len(factors)), key=lambda i: factors[i])
    mus, ns, ls = zip(*(factors[i] for i in order), strict=True)
    ms = [component[i] for component in components for i in order]
    return (
        f"{{mu0: {element}, rank: {len(order)}, ndensity: {coefficients.shape[1]}, "
        f"num_ms_combs: {len(components)}, mus: {list(mus)}, ns: {[n + 1 for n in ns]}, "
        f"ls: {list(ls)}, ms_combs: {ms}, ctildes: {np.ravel(coefficients).tolist()}}}"
    )
