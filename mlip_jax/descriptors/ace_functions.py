"""Invariant functions of the atomic cluster expansion: sparse polynomials of the atomic basis.

A function of order ν (body order ν + 1) is a product of ν elements `A_(z n l m)` of the atomic
basis, contracted with a coupling to L = 0. A selection of functions is every multiset of ν factors
(z, n, l) within bounds on n and l, with an even sum of degrees (no function changes sign under
inversion), times its independent couplings. All products of an order are evaluated together: rows
of A are gathered and multiplied, and one sparse matrix takes products to functions.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax.config import UserError
from mlip_jax.nn.symmetric_contraction import couplings

Chosen = tuple[tuple[tuple[int, ...], ...], ...]
"""Factors of functions of orders 2, 3, …: l and channel of each factor of a function in turn."""

Factor = tuple[int, int]
"""Degree l and channel of a factor; channel `z * num_radial + n` of element z, n from 0."""

_ZERO = 1e-12
"""Couplings are sums of products of roots of rational numbers; what is less is rounding."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Bounds on the functions of each order.

    Attributes:
        elements: number of elements of neighbours.
        n_max: number of radial functions, for each order from 1.
        l_max: highest degree, for each order; that of order 1 is 0.
        degree: bound on `Σ (n + l)`, n from 0, for each order; `None`: there is none.
        chosen: the functions within the bounds that count; `None`: all of them.
    """

    elements: int
    n_max: tuple[int, ...]
    l_max: tuple[int, ...]
    degree: tuple[int, ...] | None = None
    chosen: Chosen | None = None

    def checked(self) -> "Selection":
        """The selection itself.

        Raises:
            UserError: for bounds that do not fit each other.
        """
        lengths = {len(self.n_max), len(self.l_max), len(self.degree or self.n_max)}
        if len(lengths) != 1 or lengths == {0} or self.l_max[0] != 0:
            raise UserError(
                f"n_max, l_max, degree: got {self.n_max}, {self.l_max}, {self.degree}; expected as "
                "many numbers in each, one for every order from 1, and l_max = 0 for order 1."
            )
        if min(self.n_max) < 1 or min(self.l_max) < 0:
            raise UserError(
                f"n_max, l_max: got {self.n_max} and {self.l_max}; expected n_max >= 1 and "
                "l_max >= 0."
            )
        if self.chosen is not None:
            self._check_chosen(self.chosen)
        return self

    def _check_chosen(self, chosen: Chosen) -> None:
        if len(chosen) != len(self.n_max) - 1:
            raise UserError(
                f"chosen: got functions of {len(chosen)} orders; expected {len(self.n_max) - 1}, "
                "those from order 2."
            )
        for order, of_order in enumerate(chosen, 2):
            channels = self.elements * self.num_radial
            for flat in of_order:
                factors = list(zip(flat[0::2], flat[1::2], strict=False))
                fits = len(flat) == 2 * order and factors == sorted(factors)
                inside = all(0 <= l <= self.highest and 0 <= c < channels for l, c in factors)
                if not (fits and inside) or sum(flat[0::2]) % 2:
                    raise UserError(
                        f"chosen: got {list(flat)} for order {order}; expected l and channel of "
                        f"{order} sorted factors, with an even sum of l, l up to {self.highest} "
                        f"and channels below {channels}."
                    )

    @property
    def num_radial(self) -> int:
        """Radial functions that orders above 1 use."""
        return max(self.n_max[1:], default=0)

    @property
    def highest(self) -> int:
        """Highest degree of all orders."""
        return max(self.l_max[1:], default=0)

    @property
    def num_rows(self) -> int:
        """Elements of the atomic basis for orders above 1."""
        return self.elements * self.num_radial * (self.highest + 1) ** 2


class Order(NamedTuple):
    """All functions of one order: `B_f = Σ_t values_t products_(rows_t)` over the t of column f.

    Attributes:
        multisets: factors of the functions, sorted.
        first: index of the first function of every multiset, and the number of all.
        factors: rows of A in each product.
        rows: product of a term.
        columns: function of a term, in increasing order.
        values: coefficient of a term.
    """

    multisets: tuple[tuple[Factor, ...], ...]
    first: Int[np.ndarray, " multisets_and_one"]
    factors: Int[np.ndarray, "products order"]
    rows: Int[np.ndarray, " terms"]
    columns: Int[np.ndarray, " terms"]
    values: Float[np.ndarray, " terms"]

    @property
    def size(self) -> int:
        """Number of functions."""
        return int(self.first[-1])


@functools.cache
def orders(selection: Selection) -> tuple[Order, ...]:
    """The functions of orders 2, 3, … of a selection."""
    return tuple(_order(selection, order) for order in range(2, len(selection.n_max) + 1))


def sizes(selection: Selection) -> tuple[int, ...]:
    """Number of functions of each order, from 1.

    >>> sizes(Selection(1, (15, 3, 2, 1), (0, 2, 2, 1)))
    (15, 18, 26, 3)
    """
    return (
        selection.elements * selection.n_max[0],
        *(order.size for order in orders(selection)),
    )


def products(basis: Float[Array, "rows atoms"], order: Order) -> Float[Array, "products atoms"]:
    """The products of an order.

    Args:
        basis: A, by `(channel, l, m)`.
        order: names their factors.
    """
    result = basis[order.factors[:, 0]]
    for position in range(1, order.factors.shape[1]):
        result = result * basis[order.factors[:, position]]
    return result


def functions(basis: Float[Array, "rows atoms"], order: Order) -> Float[Array, "functions atoms"]:
    """The invariant functions of an order."""
    terms = products(basis, order)
    if not np.array_equal(order.rows, np.arange(len(order.rows))):
        terms = terms[order.rows]
    terms = terms * jnp.asarray(order.values, basis.dtype)[:, None]
    return jax.ops.segment_sum(terms, order.columns, order.size, indices_are_sorted=True)


def slopes(basis: Float[Array, "rows atoms"], order: Order) -> Float[Array, "atoms functions rows"]:
    """Derivatives of the invariant functions of an order by the elements of the atomic basis."""
    factors = order.factors[order.rows]
    values = jnp.asarray(order.values, basis.dtype)[:, None]
    gathered = [basis[column] for column in factors.T]
    parts = []
    for position in range(factors.shape[1]):
        others = [other for place, other in enumerate(gathered) if place != position]
        parts.append(functools.reduce(jnp.multiply, others, values))
    places = order.columns.astype(np.int64)[:, None] * len(basis) + factors
    result = jnp.zeros((basis.shape[1], order.size * len(basis)), basis.dtype)
    result = result.at[:, places.T.reshape(-1)].add(jnp.concatenate(parts).T)
    return result.reshape(-1, order.size, len(basis))


def product_coefficients(
    coefficients: Float[Array, "functions ..."], order: Order
) -> Float[Array, "products ..."]:
    """Coefficients of products from those of functions (the "C-tilde" of Drautz 2019, eq. 22)."""
    extra = (1,) * (coefficients.ndim - 1)
    values = jnp.asarray(order.values, coefficients.dtype).reshape(-1, *extra)
    terms = coefficients[order.columns] * values
    return jnp.zeros((len(order.factors), *terms.shape[1:]), terms.dtype).at[order.rows].add(terms)


def count_multisets(selection: Selection, order: int, most: int) -> int:
    """Number of multisets that may have functions; counting ends above `most`."""
    return sum(1 for _ in itertools.islice(_multisets(selection, order), most + 1))


@functools.cache
def terms(
    degrees: tuple[int, ...], equal: tuple[int, ...]
) -> tuple[Int[np.ndarray, "terms order"], Float[np.ndarray, "paths terms"]]:
    """Components m of the products of invariant couplings, and their coefficients.

    Products that differ in the order of equal factors are one.

    Args:
        degrees: l of each factor.
        equal: labels, see `couplings`; equal ones are neighbours.

    Returns:
        `l + m` of each factor, and coefficients for each coupling.
    """
    dense = couplings(degrees, equal)
    found = np.argwhere(np.abs(dense).max(axis=0, initial=0.0) > _ZERO)
    values = dense[(slice(None), *found.T)]
    for label in set(equal):
        places = [i for i, other in enumerate(equal) if other == label]
        found[:, places] = np.sort(found[:, places], axis=1)
    merged, index = np.unique(found, axis=0, return_inverse=True)
    summed = np.zeros((len(values), len(merged)))
    np.add.at(summed.T, index.ravel(), values.T)
    return merged, summed


def _order(selection: Selection, order: int) -> Order:
    width = (selection.highest + 1) ** 2
    multisets: list[tuple[Factor, ...]] = []
    first, count, size = [0], 0, 0
    factors, rows, columns, values = [], [], [], []
    for multiset in _multisets(selection, order):
        degrees = tuple(l for l, _ in multiset)
        components, table = terms(degrees, tuple(multiset.index(factor) for factor in multiset))
        if not len(table):
            continue
        offsets = np.array([channel * width + l * l for l, channel in multiset])
        path, term = np.nonzero(np.abs(table) > _ZERO)
        factors.append(offsets + components)
        rows.append(count + term)
        columns.append(size + path)
        values.append(table[path, term])
        count, size = count + len(components), size + len(table)
        multisets.append(multiset)
        first.append(size)
    empty = np.zeros((0, order), int)
    return Order(
        tuple(multisets),
        np.array(first),
        np.concatenate([empty, *factors]).astype(np.int32),
        np.concatenate([empty[:, 0], *rows]).astype(np.int32),
        np.concatenate([empty[:, 0], *columns]).astype(np.int32),
        np.concatenate([np.zeros(0), *values]),
    )


def _multisets(selection: Selection, order: int) -> Iterator[tuple[Factor, ...]]:
    """Multisets of factors that are chosen, or whose degrees may couple to an even invariant."""
    if selection.chosen is not None:
        for flat in selection.chosen[order - 2]:
            yield tuple(zip(flat[0::2], flat[1::2], strict=True))
        return
    channels = [
        element * selection.num_radial + n
        for element in range(selection.elements)
        for n in range(selection.n_max[order - 1])
    ]
    bound = None if selection.degree is None else selection.degree[order - 1]
    degrees = itertools.combinations_with_replacement(range(selection.l_max[order - 1] + 1), order)
    for ls in degrees:
        if sum(ls) % 2 or 2 * max(ls) > sum(ls):
            continue
        runs = [len(list(run)) for _, run in itertools.groupby(ls)]
        of_run = [itertools.combinations_with_replacement(channels, run) for run in runs]
        for chosen in itertools.product(*of_run):
            flat = tuple(channel for run in chosen for channel in run)
            ns = sum(channel % selection.num_radial for channel in flat)
            if bound is None or ns + sum(ls) <= bound:
                yield tuple(zip(ls, flat, strict=True))
