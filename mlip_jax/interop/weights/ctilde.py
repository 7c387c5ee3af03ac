"""Functions of a `.yace` file: sums `Re Σ_m c̃_m Π A_(μ n l m)` of products, as our functions."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax.config.documents import Entry
from mlip_jax.descriptors.ace_functions import (
    Chosen,
    Factor,
    Selection,
    count_multisets,
    orders,
    sizes,
)
from mlip_jax.interop.weights import complex_products

HIGHEST_ORDER = 8
"""Orders above this are refused: no file has them."""

_INVARIANT = 1e-8
"""Largest share of a function that may not be invariant; files have 16 digits, some only 8."""


class Function(NamedTuple):
    """A function of a file: factors (element, n, l), combinations of m, coefficients."""

    entry: Entry
    factors: tuple[tuple[int, int, int], ...]
    components: list[tuple[int, ...]]
    coefficients: Float[np.ndarray, "components densities"]


Functions = list[list[Function]]
"""Functions of each element."""


def read_functions(
    entry: Entry, elements: int, radial: tuple[int, ...], densities: int
) -> list[Function]:
    """Reads the functions of one element.

    Args:
        entry: the list of them.
        elements: number of elements.
        radial: shape of the radial coefficients, `(elements, elements, n, l, k)`.
        densities: number of densities.

    Raises:
        UserError: naming file and line of what is damaged.
    """
    return [_read(item, elements, radial, densities) for item in entry.entries()]


def _read(entry: Entry, number: int, radial: tuple[int, ...], size: int) -> Function:
    order = entry["rank"].integer(1, HIGHEST_ORDER)
    factors = []
    columns = [entry[name].entries() for name in ("mus", "ns", "ls")]
    if {len(column) for column in columns} != {order}:
        raise entry.error(f"expected {order} values in each of mus, ns and ls")
    for mu, n, l in zip(*columns, strict=True):
        most = radial[-1] if order == 1 else radial[2]
        degree = 0 if order == 1 else radial[3] - 1
        factors.append((mu.integer(0, number - 1), n.integer(1, most) - 1, l.integer(0, degree)))
    count = entry["num_ms_combs"].integer(1)
    flat = entry["ms_combs"].integers(count * order)
    components = [tuple(flat[i * order : (i + 1) * order]) for i in range(count)]
    for component in components:
        if any(abs(m) > l for m, (_, _, l) in zip(component, factors, strict=True)):
            raise entry["ms_combs"].error(f"got m = {list(component)}; expected |m| <= l")
    values = entry["ctildes"].numbers(count * size).reshape(count, size)
    return Function(entry, tuple(factors), components, values)


def bounds(functions: Functions) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bounds on n and l of each order that hold all functions."""
    everything = list(itertools.chain(*functions))
    highest = max((len(function.factors) for function in everything), default=1)
    n_max, l_max = [0] * highest, [0] * highest
    for function in everything:
        index = len(function.factors) - 1
        n_max[index] = max(n_max[index], *(n + 1 for _, n, _ in function.factors), 1)
        l_max[index] = max(l_max[index], *(l for _, _, l in function.factors), 0)
    return tuple(max(n, 1) for n in n_max), tuple(l_max)


def chosen(functions: Functions, within: Selection) -> Chosen | None:
    """The functions of a file, unless they are all within the within."""
    multisets = {_multiset(f, within.num_radial) for f in itertools.chain(*functions)}
    even = sorted(multiset for multiset in multisets if sum(l for l, _ in multiset) % 2 == 0)
    found = [
        [multiset for multiset in even if len(multiset) == order]
        for order in range(2, len(within.n_max) + 1)
    ]
    if all(
        count_multisets(within, order, len(of_order)) == len(of_order)
        for order, of_order in enumerate(found, 2)
    ):
        return None
    return tuple(
        tuple(tuple(itertools.chain(*multiset)) for multiset in of_order) for of_order in found
    )


def _multiset(function: Function, num_radial: int) -> tuple[Factor, ...]:
    """Sorted factors of a function."""
    return tuple(sorted((l, mu * num_radial + n) for mu, n, l in function.factors))


def coefficients(
    functions: Functions, selection: Selection, size: int
) -> dict[str, Float[np.ndarray, "functions elements densities"]]:
    """Coefficients of our functions of each order."""
    tables = [np.zeros((count, selection.elements, size)) for count in sizes(selection)]
    places = [
        {multiset: first for multiset, first in zip(order.multisets, order.first, strict=False)}
        for order in orders(selection)
    ]
    for element, of_element in enumerate(functions):
        for function in of_element:
            if len(function.factors) == 1:
                ((mu, n, _),) = function.factors
                tables[0][mu * selection.n_max[0] + n, element] += function.coefficients[0]
                continue
            multiset, values = _in_our_functions(function, selection.num_radial)
            first = places[len(multiset) - 2].get(multiset)
            if first is not None:
                tables[len(multiset) - 1][first : first + len(values), element] += values
            elif np.any(values):
                raise function.entry.error(
                    "its degrees give no invariant that is even under inversion"
                )
    return {f"order_{order}": table for order, table in enumerate(tables, 1)}


def _in_our_functions(
    function: Function, num_radial: int
) -> tuple[tuple[Factor, ...], Float[np.ndarray, "paths densities"]]:
    """Sorted factors of a function, and its coefficients in our couplings of them."""
    factors = [(l, mu * num_radial + n) for mu, n, l in function.factors]
    order = sorted(range(len(factors)), key=lambda i: factors[i])
    multiset = tuple(factors[i] for i in order)
    components = [tuple(component[i] for i in order) for component in function.components]
    ours, rest = complex_products.in_couplings(multiset, components, function.coefficients)
    if rest > _INVARIANT * np.abs(function.coefficients).max():
        raise function.entry.error("its coefficients do not make it invariant under rotations")
    return multiset, ours
