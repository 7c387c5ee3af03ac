"""Symmetric products of an atomic basis: many-body features with a weight for each element.

`B_LM = Σ_ν Σ_k w^(ν)_(z k c) Σ_(lm) C^k_(LM, l1 m1 … lν mν) A_(l1 m1 c) … A_(lν mν c)`, channel by
channel; I. Batatia et al., NeurIPS 2022 (arXiv:2206.07697), eq. 10 and 11. The couplings C are
those of `symmetric_contraction`: only as many as are independent when all factors are the same.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import graph as graphs
from mlip_jax.nn.symmetric_contraction import couplings

MAX_MERGED_ELEMENTS = 2
"""Up to so many elements, weights and couplings merge into a polynomial for each element."""


class ProductTable(NamedTuple):
    """Products of a number of components and their couplings.

    Attributes:
        factors: indices of the components of each product, in ascending order.
        coefficients: by degree L, of each coupling.
    """

    factors: np.ndarray  # [products, order]
    coefficients: Mapping[int, np.ndarray]  # [2 L + 1, couplings, products]


@functools.cache
def product_table(l_max: int, order: int, degrees: tuple[int, ...]) -> ProductTable:
    """Couplings of `order` equal factors with components of degrees 0 to `l_max`.

    Factors of degree l have the parity `(-1)^l`, and so have the results.

    Args:
        l_max: highest degree of the factors.
        order: ν, their number.
        degrees: of the results.
    """
    found: dict[int, list[dict[tuple[int, ...], np.ndarray]]] = {}
    for total in degrees:
        sequences = itertools.combinations_with_replacement(range(l_max + 1), order)
        natural = [ls for ls in sequences if (sum(ls) + total) % 2 == 0]
        found[total] = [row for ls in natural for row in _polynomials(ls, total)]
    products = sorted({key for rows in found.values() for row in rows for key in row})
    place = {key: i for i, key in enumerate(products)}
    coefficients = {}
    for total, rows in found.items():
        table = np.zeros((2 * total + 1, len(rows), len(products)))
        for k, row in enumerate(rows):
            for key, values in row.items():
                table[:, k, place[key]] = values
        coefficients[total] = table
    return ProductTable(np.array(products, dtype=np.int64).reshape(-1, order), coefficients)


def _polynomials(degrees: tuple[int, ...], total: int) -> list[dict[tuple[int, ...], np.ndarray]]:
    """Coefficients `[2 L + 1]` of the products that occur, for each coupling of the degrees."""
    starts = [l * l for l in degrees]
    result = []
    for coupling in couplings(degrees, equal=degrees, total=total):
        tensor = coupling.reshape(*(2 * l + 1 for l in degrees), 2 * total + 1)
        terms: dict[tuple[int, ...], np.ndarray] = {}
        for index in np.argwhere(np.any(np.abs(tensor) > 1e-12, axis=-1)):
            key = tuple(sorted(start + int(m) for start, m in zip(starts, index, strict=True)))
            terms[key] = terms.get(key, 0.0) + tensor[tuple(index)]
        result.append(terms)
    return result


class ProductBasis(nn.Module):
    """Many-body features of every atom.

    Attributes:
        l_max: highest degree of A.
        degrees: of the result.
        correlation: highest number of factors ν.
        num_species: elements.
    """

    l_max: int
    degrees: tuple[int, ...]
    correlation: int
    num_species: int

    @nn.compact
    def __call__(
        self,
        graph: graphs.AtomicGraph,
        basis: Float[Array, "atoms components channels"],
        species: Int[Array, " atoms"],
    ) -> tuple[Float[Array, "atoms _ channels"], ...]:
        """B of each degree, `[atoms, 2 L + 1, channels]`.

        Args:
            graph: for its blocks of atoms.
            basis: A, its degrees side by side.
            species: element of each atom.
        """
        orders = range(1, self.correlation + 1)
        tables = [product_table(self.l_max, order, self.degrees) for order in orders]
        weights = {
            degree: [self._weight(order, degree, tables[order - 1], basis) for order in orders]
            for degree in self.degrees
        }
        form = _merged if self.num_species <= MAX_MERGED_ELEMENTS else _separate
        sums = {
            degree: form([table.coefficients[degree] for table in tables], own)
            for degree, own in weights.items()
        }
        factors = [table.factors for table in tables]

        def block(a: Array, z: Array) -> tuple[Array, ...]:
            chosen = jax.nn.one_hot(z, self.num_species, dtype=a.dtype)
            products = monomials(a, factors)
            return tuple(sums[degree](products, chosen) for degree in self.degrees)

        return graphs.map_atom_blocks(block, graph, basis, species)

    def _weight(self, order: int, degree: int, table: ProductTable, basis: Array) -> Array:
        count = table.coefficients[degree].shape[1]
        shape = (self.num_species, count, basis.shape[-1])
        start = nn.initializers.normal(1.0 / max(count, 1))
        return self.param(f"weight_{degree}_{order}", start, shape, basis.dtype)


def monomials(
    basis: Float[Array, "atoms components channels"], factors: Sequence[np.ndarray]
) -> list[Float[Array, "_ atoms channels"]]:
    """Products of components, channel by channel.

    Components are picked by a product with a matrix of zeros and ones: the transpose of indexing is
    a scatter, which costs far more than the product. One matrix for each factor, and products
    first: what follows, and its transpose, neither pads nor transposes anything.

    Args:
        basis: A.
        factors: for each order, indices `[products, order]` of components.
    """
    rows = jnp.swapaxes(basis, 0, 1)
    flat = rows.reshape(len(rows), -1)

    def picked(column: np.ndarray) -> Array:
        matrix = jnp.asarray(np.eye(len(rows))[column], flat.dtype)
        return jnp.matmul(matrix, flat, precision="highest")

    products = (functools.reduce(jnp.multiply, map(picked, index.T)) for index in factors)
    return [product.reshape(-1, *rows.shape[1:]) for product in products]


Sums = Callable[[list[Array], Array], Array]


def _merged(coefficients: Sequence[np.ndarray], weights: Sequence[Array]) -> Sums:
    """Sums with weights and couplings merged: a polynomial for each element and channel."""
    polynomials = [
        jnp.einsum("mkp,zkc->zmpc", jnp.asarray(table, weight.dtype), weight)
        for table, weight in zip(coefficients, weights, strict=True)
    ]

    def sums(products: list[Array], chosen: Array) -> Array:
        def component(z: int, m: int) -> Array:
            terms = [
                jnp.sum(values * own[z, m, :, None], axis=0)
                for values, own in zip(products, polynomials, strict=True)
            ]
            return sum(terms[1:], start=terms[0])

        elements, components = polynomials[0].shape[:2]
        of_elements = [
            jnp.stack([component(z, m) for m in range(components)], axis=1) for z in range(elements)
        ]
        if elements == 1:
            return of_elements[0]
        return jnp.einsum("az,zamc->amc", chosen, jnp.stack(of_elements))

    return sums


def _separate(coefficients: Sequence[np.ndarray], weights: Sequence[Array]) -> Sums:
    """Sums over couplings first, and then the weights of each atom's element."""

    def sums(products: list[Array], chosen: Array) -> Array:
        terms = []
        for table, weight, values in zip(coefficients, weights, products, strict=True):
            matrix = jnp.asarray(table.reshape(-1, table.shape[-1]), weight.dtype)
            coupled = (matrix @ values.reshape(len(values), -1)).reshape(
                *table.shape[:2], *values.shape[1:]
            )
            own = jnp.einsum("az,zkc->kac", chosen, weight)
            terms.append(jnp.swapaxes(jnp.sum(coupled * own[None], axis=1), 0, 1))
        return sum(terms[1:], start=terms[0])

    return sums
