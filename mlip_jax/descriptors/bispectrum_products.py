"""Which products of densities make the bispectrum components, and their derivatives."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Triple = tuple[int, int, int]
Factor = tuple[int, int]
"""Degree and density."""


@functools.cache
def triples(twojmax: int) -> tuple[Triple, ...]:
    """Degrees (n1, n2, n) of the independent components, n2 <= n1 <= n, in LAMMPS's order.

    >>> len(triples(6)), len(triples(8))
    (30, 55)
    """
    return tuple(
        (a, b, c)
        for a in range(twojmax + 1)
        for b in range(a + 1)
        for c in range(a - b, min(twojmax, a + b) + 1, 2)
        if c >= a
    )


class SlopePlan(NamedTuple):
    """Where the derivatives of components stand among the coefficients of products.

    Attributes:
        pairs: for each degree, the pairs of (degree, density) whose products are needed there.
        columns: `[densities, features, coefficients]`, place of a derivative among the coefficients
            of all products, one degree after the other; a zero stands behind the last.
        counts: how often it counts.
    """

    pairs: tuple[tuple[tuple[Factor, Factor], ...], ...]
    columns: Int[np.ndarray, "densities features coefficients"]
    counts: Float[np.ndarray, "densities features coefficients"]


@functools.cache
def slope_plan(twojmax: int, densities: int) -> SlopePlan:
    """Each factor of a triple has the product of the other two as its derivative."""
    factors = [
        list(zip(triple, elements, strict=True))
        for elements in np.ndindex((densities,) * 3)
        for triple in triples(twojmax)
    ]
    pairs: list[dict[Any, int]] = [{} for _ in range(twojmax + 1)]
    places = []
    for feature, triple in enumerate(factors):
        for place, (n, e) in enumerate(triple):
            rest = tuple(sorted(triple[:place] + triple[place + 1 :]))
            places.append((feature, n, e, pairs[n].setdefault(rest, len(pairs[n]))))
    sizes = [(n + 1) ** 2 for n in range(twojmax + 1)]
    starts = np.cumsum([0, *sizes])
    before = np.cumsum([0, *(len(p) * size for p, size in zip(pairs, sizes, strict=True))])
    columns = np.full((densities, len(factors), starts[-1]), before[-1])
    counts = np.zeros(columns.shape)
    for feature, n, e, pair in places:
        own = slice(starts[n], starts[n + 1])
        columns[e, feature, own] = before[n] + pair * sizes[n] + np.arange(sizes[n])
        counts[e, feature, own] += 1.0
    return SlopePlan(tuple(tuple(p) for p in pairs), columns, counts)
