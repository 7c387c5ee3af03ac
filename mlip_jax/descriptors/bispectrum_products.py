"""Which products of densities make the bispectrum components, and their derivatives."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax.nn import hyperspherical

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


class Tables(NamedTuple):
    """An exact quadrature of the components.

    Attributes:
        harmonics: of each degree at the points.
        weights: of the points.
        steps: the first of this many equal parts of the weights is repeated by the others.
    """

    harmonics: tuple[Float[np.ndarray, "components points"], ...]
    weights: Float[np.ndarray, " points"]
    steps: int


@functools.cache
def tables(twojmax: int) -> Tables:
    """Harmonics of each degree at the points of an exact quadrature, and its weights."""
    points, weights = hyperspherical.quadrature(3 * twojmax)
    harmonics = hyperspherical.harmonics(points.reshape(-1, 4), twojmax)
    return Tables(harmonics, np.tile(weights, len(points)), len(points))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def integrals(
    twojmax: int, projections: list[Float[Array, "densities atoms points"]]
) -> Float[Array, "atoms features"]:
    """Integrals of all triples of projections, blocks of densities first.

    Sums over the steps of the quadrature go along the points, which XLA makes fast on a CPU, and
    then the weights of one step are contracted. The transpose of that would be slow: derivatives
    are those of the weighted sum over all points, the same integral.
    """
    table = tables(twojmax)
    split = [f.reshape(*f.shape[:2], table.steps, -1) for f in projections]
    summed = [jnp.sum(product, axis=1) for product in _products(twojmax, split, split)]
    weights = table.weights[: split[0].shape[-1]]
    return jnp.stack(summed, axis=1) @ jnp.asarray(weights, split[0].dtype)


@integrals.defjvp
def _integrals_jvp(
    twojmax: int, primals: tuple[list[Array]], tangents: tuple[list[Array]]
) -> tuple[Array, Array]:
    def plain(projections: list[Array]) -> Array:
        weights = jnp.asarray(tables(twojmax).weights, projections[0].dtype)
        weighted = [f * weights[None, None] for f in projections]
        products = _products(twojmax, projections, weighted)
        return jnp.stack([jnp.sum(product, axis=-1) for product in products], axis=-1)

    return integrals(twojmax, *primals), jax.jvp(plain, primals, tangents)[1]


def _products(twojmax: int, projections: list[Array], last: list[Array]) -> list[Array]:
    """Products of all triples, the third factors taken from `last`."""
    return [
        projections[a][e1] * projections[b][e2] * last[c][e3]
        for e1, e2, e3 in np.ndindex((len(projections[0]),) * 3)
        for a, b, c in triples(twojmax)
    ]


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
